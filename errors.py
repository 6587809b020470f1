"""The one kind of error that users read: what happened, why, and what to do."""

from __future__ import annotations


class StreamDiffVSRError(Exception):
    """A failure caused by input, environment or configuration, reported in one line.

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
        super().__init__(" ".join(line.split()))  # one line, even if a library's text has more


class UsageError(StreamDiffVSRError):
    """The command line or a call asks for something that has no meaning (exit code 2)."""
