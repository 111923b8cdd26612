"""Real guests: kernels that boot in a few seconds, with iperf3 and a shell on their console.

Read in this order: `machine` (command lines of User Mode Linux and QEMU), `initramfs` (what a QEMU
guest boots into), `init.sh` (what runs in either), `console` (typing into it), `shell` (what can
be asked of any network stack), `process` (child processes that end with us).
"""
