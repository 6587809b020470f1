"""Every frame: prepare, flow, guide, denoise, decode, and the state between frames. No torch."""
