"""The command line: options in, a library call or two, a line or a JSON object out."""
