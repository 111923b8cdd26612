"""Virtual machines: QEMU's command line, its disks, its life and its console."""
