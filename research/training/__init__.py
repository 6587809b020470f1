"""OFFLINE, torch: how `models/tiny` was trained, so that anyone can train it again or better."""
