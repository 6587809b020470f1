"""Live frames that keep up: detail is carried along, and refined tile by tile."""
