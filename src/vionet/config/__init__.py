"""What a person writes: the grammar of ports and their options."""
