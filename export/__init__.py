"""Offline: the reference modules, their weights, and the export of each graph. Needs torch."""
