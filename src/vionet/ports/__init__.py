"""What can be plugged in: one file each: how it is opened, what it accepts, how it is closed."""
