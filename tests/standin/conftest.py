"""Fixtures of the cases, which run in a child of test_standin.py with the stand-in loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from streamdiffvsr.tests.standin.library import Standin


@pytest.fixture(scope="session")
def loaded() -> Standin:
    """The stand-in, which `cuda.bindings` of the version that was asked for has loaded."""
    wanted = os.environ.get("STANDIN_BINDINGS")
    if wanted is None:
        pytest.skip("tests/standin/test_standin.py runs the cases")
    import cuda.bindings
    from cuda.bindings import driver

    from streamdiffvsr.tests.standin.library import Standin

    assert cuda.bindings.__version__ == wanted, cuda.bindings.__file__
    assert int(driver.cuInit(0)[0]) == 0
    return Standin()


@pytest.fixture
def standin(loaded: Standin) -> Iterator[Standin]:
    """The stand-in, with nothing planned and all work done, in which all work is late."""
    loaded.reset()
    loaded.progress(0)
    yield loaded
    loaded.reset()
    loaded.finish()


@pytest.fixture
def gpu(standin: Standin) -> Iterator[int]:
    """Device 0's context is current in this thread; gives the context."""
    from streamdiffvsr.tests.standin import driving

    with driving.device(0) as context:
        yield context
        standin.fail(0)


@pytest.fixture(scope="module")
def expected(loaded: Standin) -> Any:
    """The plain loop's frames of `FRAMES` from `START`, and the state after them."""
    from streamdiffvsr.tests.standin.engines import FRAMES, START, expected_frames

    return expected_frames(loaded, FRAMES, START)


@pytest.fixture(params=["plans", "sessions", "graphs"])
def kind(request: pytest.FixtureRequest) -> str:
    """Returns how engines launch."""
    return str(request.param)


@pytest.fixture
def up(standin: Standin, kind: str, tmp_path: Path) -> Any:
    """An Upscaler of such engines."""
    from streamdiffvsr.tests.standin.engines import make_upscaler

    return make_upscaler(standin, kind, tmp_path)
