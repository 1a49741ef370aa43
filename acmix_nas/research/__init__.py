"""The tasks, tables and benchmarks behind the figures of the docs."""
