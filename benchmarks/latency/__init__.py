"""How long a frame takes, and where the time goes: what `streamdiffvsr bench` measures."""
