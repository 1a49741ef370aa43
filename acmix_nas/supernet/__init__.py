"""All candidates of a backbone at once, and what the trained weights are worth."""
