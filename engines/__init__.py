"""Turns graphs into engines once per machine: one interface, a key, a manifest and a cache."""
