"""Experiments of NNI's: run, watched, and read."""
