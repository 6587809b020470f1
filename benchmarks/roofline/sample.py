"""A rate that was measured several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Sample:
    """Repetitions of one measurement, in its unit.

    Attributes:
        how: What was done, for the reader of the result.
    """

    values: tuple[float, ...]
    how: str

    @property
    def best(self) -> float:
        """The largest."""
        return max(self.values)

    @property
    def spread(self) -> float:
        """How far the median is below the best, as a share of it."""
        return 1 - median(self.values) / self.best


def sample(seconds: Sequence[float], amount: float, how: str) -> Sample:
    """`amount` (1e9 operations or bytes) in each of these times."""
    return Sample(tuple(amount / s for s in seconds), how)
