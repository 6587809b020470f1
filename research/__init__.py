"""Experiments and long measurements; run from a checkout, not part of the installed package."""
