"""Upscaling whole files: the loop from a source through an upscaler to a writer of segments."""
