"""The one-shot strategies, as NNI's classes: they train a supernet."""
