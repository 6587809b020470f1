"""Fixtures for several test modules: the recorded run of the original, and its model's engines.

The recorded files are unpacked and `parity_engines` is built once per session. With
`STREAMDIFFVSR_TEST_CACHE` set to a folder both are kept there between runs: `streamdiffvsr.build`
checks the model's digest, the options and every file's digest before it takes a set as it is, but
not this package's own source, so leave it unset after a change to `export/` or `engines/`. The key
that signs the sets is kept in the same folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import streamdiffvsr
from streamdiffvsr.tests.recorded_files import MODEL, TRACE, unpack

# A shell starts what runs in its background deaf to Ctrl-C, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

PARITY_SIZE = (48, 64)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of a run: whoever comes second finds what the first one made."""
    if kept := os.environ.get("STREAMDIFFVSR_TEST_CACHE"):
        return Path(kept)
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def recorded(shared_folder: Path) -> Path:
    """The recorded files, unpacked."""
    return unpack(shared_folder / "recorded")


@pytest.fixture(scope="session")
def parity_model(recorded: Path) -> Path:
    """The recorded model: small, random weights, in the released layout."""
    return recorded / MODEL


@pytest.fixture(scope="session")
def parity_engines(parity_model: Path, shared_folder: Path) -> Path:
    """The engine set of the recorded model at its recorded size, fp32 on the CPU."""
    pytest.importorskip("torch", reason="engines are built with the export extra")
    own, shared = Path(os.environ["STREAMDIFFVSR_CACHE"], "graphs"), shared_folder / "graphs"
    with FileLock(shared_folder / "graphs.lock"):
        if shared.exists() and not own.exists():  # so that each graph is exported once in a run
            shutil.copytree(shared, own)
        engines = streamdiffvsr.build(
            parity_model,
            size=PARITY_SIZE,
            backend="onnxruntime",
            precision="fp32",
            out=shared_folder / "parity_64x48_fp32",
        )
        if own.exists() and not shared.exists():
            shutil.copytree(own, shared)
    return engines


@pytest.fixture(scope="session")
def parity_trace(recorded: Path) -> dict[str, Any]:
    """Inputs, noise, intermediates and outputs of the original on that model, by name."""
    from safetensors.numpy import load_file

    return load_file(recorded / TRACE)


@pytest.fixture(scope="session", autouse=True)
def _builds_of_the_tests(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path) -> Any:
    """Nothing a test builds lands in, or is taken from, the user's own cache.

    Builds run in this process, which has torch already; `tests/building/test_process.py` has the
    others.
    """
    from streamdiffvsr.building import builder

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path_factory.mktemp("cache")))
        # The key that signs the sets of the shared folder stays with them.
        patch.setenv("STREAMDIFFVSR_STATE", str(shared_folder / "state"))
        patch.setattr(builder, "execute_in_child", builder.execute)
        yield


@dataclass(frozen=True)
class Ran:
    """The result of a command line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The last line of stdout, which must be the only JSON object there."""
        lines = self.out.splitlines()
        assert not any(line.startswith("{") for line in lines[:-1])
        result: dict[str, Any] = json.loads(lines[-1])
        return result

    @property
    def error(self) -> str:
        """The one line on stderr that a failure has."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Any:
    """Run a command line in this process; what libraries write to the terminal is seen too."""
    from streamdiffvsr.cli.app import main

    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capfd.readouterr())

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


Cli = Callable[..., Ran]


@pytest.fixture
def stand_in_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `bench --quick` opens as engines that sleep; other folders open as ever."""
    from streamdiffvsr.benchmarks import subject
    from streamdiffvsr.engines.cpu_device import CpuDevice
    from streamdiffvsr.tests.benchmarks.taking import taking_upscaler

    folder, real, real_place = tmp_path / "stand_in", subject.load, subject.place_of
    folder.mkdir()

    def opened(asked: Path, device: str | None = None) -> Any:
        return taking_upscaler(CpuDevice()) if asked == folder else real(asked, device)

    def place(asked: Path, device: str | None) -> str:
        return "cpu" if asked == folder else real_place(asked, device)

    monkeypatch.setattr(subject, "load", opened)
    monkeypatch.setattr(subject, "place_of", place)
    return folder
