"""What a foreground command serves: the control socket and its status document."""
