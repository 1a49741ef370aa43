"""Where in a backbone a choice is made, and what may stand there."""
