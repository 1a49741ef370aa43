"""A search, from its config to what it found."""
