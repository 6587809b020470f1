"""What the graphs of the model are, in terms that need numpy alone."""
