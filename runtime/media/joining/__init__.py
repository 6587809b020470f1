"""Segments made one output, with all else that the input holds."""
