"""One frame: libav's planes as RGB and back, its colours, its size, its fields."""
