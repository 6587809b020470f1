"""Shows the JSON of a benchmark: in the terminal, as a page, as a trace, and against another."""
