"""Tables of the speed GPUs can reach with the full-size model, and of the original's work.

`counts.py` keeps the model's work by input size, `table.py` sets it against the data sheets of
`gpus.py`, `comparison.py` against the original's. docs/roofline.md.
"""
