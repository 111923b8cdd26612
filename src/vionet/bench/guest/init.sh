#!/bin/busybox sh
# The init of a guest (User Mode Linux on the host's folder, QEMU in an initramfs): mounts, loads the
# modules named by the kernel parameter `modules=a,b`, and turns the console into a shell that
# answers one command line at a time (console.py).  Nothing here touches the host's files.
b=/bin/busybox
# A host that is out of processes for a moment refuses even the first fork, which ends a shell, and
# with it the kernel; behind `command` it is an error like others.
n=0
until command eval "$b true" || [ $((n += 1)) = 30 ]; do
	read -r -t 1 _ # a builtin, where nobody types yet
done
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev 2>/dev/null
# Scratch below /dev: wherever else it were, it could hide the checkout in a guest on the host's folder.
$b mkdir -p /dev/shm
$b mount -t tmpfs tmpfs /dev/shm
$b mount -t tmpfs tmpfs /run
echo 1 >/proc/sys/kernel/printk
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/dev/shm TMPDIR=/dev/shm
folder=$modulefolder
[ -n "$folder" ] || folder=/modules
IFS=,
for module in $modules; do
	$b insmod "$folder/$module.ko" 2>/dev/shm/insmod || echo "$module: $($b cat /dev/shm/insmod)"
done
unset IFS
$b ip link set lo up
$b stty -echo -icanon -opost 2>/dev/null
echo "@@ready"
# busybox's `read` begins anew when a background command ends while it waits in the middle of a line,
# and what it had of the line is lost.  So it gets whole ones, each by one write.
$b awk '{ print; fflush() }' | while read -r line; do
	command eval "$line" # where a mistake, or no fork, would end a shell
done
$b poweroff -f
