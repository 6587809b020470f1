"""Live sources and sinks: addresses, opening, newest frames out, encoded frames away."""
