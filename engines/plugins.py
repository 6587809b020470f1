"""Finds what other installed packages add to this one, by entry points."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any


def plugins(group: str) -> Iterator[Any]:
    """Yields the objects that installed packages name in an entry-point group.

    One that cannot be loaded is left out with a warning, so that it stops nothing else.
    """
    for entry in entry_points(group=group):
        try:
            yield entry.load()
        except Exception as error:  # it is another package's code
            why = f"{type(error).__name__}: {error}"
            warnings.warn(f"{group} {entry.name} is left out: {why}", RuntimeWarning, stacklevel=2)
