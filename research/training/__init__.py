"""Offline, with torch: how `models/tiny` was trained, to train it again or better."""
