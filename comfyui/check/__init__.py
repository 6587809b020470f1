"""The nodes in a real ComfyUI: `python -m streamdiffvsr.comfyui.check`."""
