"""How long to wait before a source is opened again.

It knows nothing of sources or sockets: it is told why the last attempt ended and how long it had
played, and gives seconds.
"""

from __future__ import annotations

from tenacity import RetryCallState, Retrying, wait_exponential, wait_random
from tenacity.wait import wait_base

REFUSED = "refused"  # the cause of an end that will not change soon: 401, 404, no video


class Backoff:
    """Waits that double from attempt to attempt, with jitter, until a source plays steadily.

    Args:
        first_s: The first wait.
        longest_s: No wait is longer, but for jitter and refusals.
        refused_s: The wait behind a refusal.
        steady_s: A source that has played for so long begins with the first wait again.
    """

    def __init__(
        self,
        first_s: float = 1.0,
        longest_s: float = 30.0,
        *,
        refused_s: float = 60.0,
        steady_s: float = 30.0,
    ) -> None:
        self._steady_s = steady_s
        jitter = wait_random(0, first_s / 2)
        self._lost: wait_base = wait_exponential(multiplier=first_s, max=longest_s) + jitter
        self._refused: wait_base = wait_random(refused_s, refused_s + first_s)
        self._attempt = RetryCallState(Retrying(), None, (), {})
        self._failures = 0

    def after(self, cause: str, played_s: float) -> float:
        """Seconds to wait now.

        Args:
            cause: Why the last attempt ended, ``REFUSED`` or anything else.
            played_s: How long it had given frames; 0 if it never did.
        """
        if played_s >= self._steady_s:
            self._failures = 0
        self._failures += 1
        self._attempt.attempt_number = self._failures
        return float((self._refused if cause == REFUSED else self._lost)(self._attempt))
