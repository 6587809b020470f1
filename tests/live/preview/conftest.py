"""A preview that is shown nothing yet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamdiffvsr.runtime.live.preview.sink import Preview
from streamdiffvsr.tests.live.preview.rig import (
    Told,
    preview,
)


@pytest.fixture
def shown() -> Iterator[tuple[Preview, Told]]:
    with preview() as pair:
        yield pair
