"""The one kind of error a user is meant to read: what happened, why, and what to do."""

from __future__ import annotations


class StreamDiffVSRError(Exception):
    """A failure caused by input, environment or configuration, told in one line.

    Args:
        what: What could not be done, naming the file or value.
        why: The cause, as far as it is known.
        remedy: What the user can do about it.
    """

    def __init__(self, what: str, why: str = "", remedy: str = "") -> None:
        self.what, self.why, self.remedy = what, why, remedy
        line = what if not why else f"{what}: {why}"
        if remedy:
            line = f"{line.rstrip('.')}; {remedy}"
        super().__init__(" ".join(line.split()))  # one line, whatever a library put into it


class UsageError(StreamDiffVSRError):
    """The command line or a call asks for something that has no meaning (exit code 2)."""
