"""Runs tasks in child processes, which can always be killed, and exchanges messages with them."""
