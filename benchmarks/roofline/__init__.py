"""How near to the machine's limit a frame is: work counted from the graphs, rates measured.

`operators.py` says what counts as work, `graph_work.py` adds it up by graph, `engine_work.py` finds
the graphs of an engine set, `rates.py` measures the device, `limits.py` puts both together.
`table.py` does the same for GPUs that are not here, from their data sheets. docs/roofline.md.
"""
