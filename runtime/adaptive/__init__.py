"""Adaptive mode: a canvas of detail is carried along by motion, and refined tile by tile."""
