"""Defines the ComfyUI nodes; it can be imported without the optional requirements."""
