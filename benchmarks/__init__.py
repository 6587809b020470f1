"""Measurements. Each module runs with `python -m` and prints JSON as its last line."""
