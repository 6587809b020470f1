"""What GPUs can do with the full-size model: tables from data sheets, and the original's work.

`counts.py` keeps the model's work by input size, `table.py` sets it against the data sheets of
`gpus.py`, `comparison.py` against the original's. docs/roofline.md.
"""
