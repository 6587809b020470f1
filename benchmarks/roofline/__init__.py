"""How near to the machine's limit a frame is: work counted from the graphs, rates measured.

`graph_work.py` says what counts as work and adds it up by graph, `engine_work.py` finds the graphs
of an engine set, `limits.py` sets their work against the rates of the device. docs/roofline.md.
"""
