"""What a benchmark's result says: terminal, HTML, trace, comparison. Reads the JSON alone."""
