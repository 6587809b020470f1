"""Checks and measures every backend of a machine with an NVIDIA GPU."""
