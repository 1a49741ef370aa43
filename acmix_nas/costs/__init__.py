"""What operators and architectures cost, limits on it, and the best within them."""
