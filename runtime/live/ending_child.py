"""Says why a source has no more frames, in the process that reads it."""

from __future__ import annotations

from typing import Literal

from ..media.redact import redact

# What an end means for the next attempt: "lost" may come back at any time, "refused" not soon,
# "hopeless" never by itself.
Cause = Literal["ended", "lost", "refused", "hopeless"]


class Ended(Exception):
    """Raised when a source has no more frames; says why."""

    def __init__(self, cause: Cause, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.cause, self.why, self.remedy = cause, redact(why), remedy
