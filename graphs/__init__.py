"""Descriptions of the model's graphs that need only numpy."""
