"""How an output is written: container, codec, encoder and its options, or a kind of image."""
