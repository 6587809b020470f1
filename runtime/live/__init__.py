"""Live upscaling: the newest frame wins, latency never grows, what breaks is opened again."""
