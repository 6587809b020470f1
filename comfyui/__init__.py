"""ComfyUI nodes: thin over `runtime`, and importable whatever is installed."""
