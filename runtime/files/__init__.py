"""Upscaling whole files: the loop from a file source through an upscaler to a file sink."""
