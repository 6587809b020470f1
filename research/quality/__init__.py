"""Measures picture quality on clips whose truth and motion are known."""
