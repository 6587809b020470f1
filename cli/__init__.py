"""The command line: parses options, calls the library, and prints a few lines or JSON."""
