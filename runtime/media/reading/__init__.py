"""The reader's side of a file source: demux, decode, and give each frame its time."""
