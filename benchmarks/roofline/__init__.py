"""Compares a frame's time with the machine's limit, from the graphs' work and measured rates.

`graph_work.py` defines and counts the work of a graph, `engine_work.py` finds the graphs of an
engine set, and `limits.py` sets their work against the device's rates. See docs/roofline.md.
"""
