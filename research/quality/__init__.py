"""How good the pictures are: clips of which truth and motion are known, and what is measured."""
