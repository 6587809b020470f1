"""Tasks in processes of their own, which can always be killed, and messages to and fro."""
