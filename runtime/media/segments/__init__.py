"""Frames written in segments, each whole on the disk or not there at all."""
