"""Runs the cases of this folder, each file in a child process whose CUDA driver is the stand-in.

The stand-in is never loaded into this process: no other test must take it for a GPU.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamdiffvsr.tests.standin.library import compile_driver

SHARES = 8
OLDEST = "12.8.0"  # what pyproject.toml asks for at least
CASES = sorted(path.name for path in Path(__file__).parent.glob("cases_*.py"))
LONG = {"cases_costs.py", "cases_failures.py", "cases_tiles.py"}
WITH_LONG_ONES_SLOW = [
    pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CASES
]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library."""
    if sys.platform != "linux":
        pytest.skip("the stand-in is a library of Linux")
    compiled = compile_driver(tmp_path_factory.mktemp("standin"))
    if compiled is None:
        pytest.skip("no C compiler: apt-get install gcc")
    return compiled


@pytest.fixture(scope="session")
def oldest_bindings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the oldest `cuda.bindings` that the project takes.

    There `cuda` is a package of its own, so that no other version's modules are mixed in.
    """
    folder = tmp_path_factory.mktemp("oldest")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
    ran = subprocess.run(
        [*command, f"cuda-bindings=={OLDEST}"], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        pytest.skip(f"cuda-bindings {OLDEST} cannot be had here: {ran.stderr.strip()[-200:]}")
    return folder


def run_cases(
    cases: str, library: Path, version: str, tmp_path: Path, *before: Path, **options: str
) -> None:
    """Run a file of cases with `cuda.bindings` of a version, found in `before` if it is there.

    Args:
        options: Environment variables of the cases.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "STANDIN_"))}
    path = [*map(str, before), environment.get("PYTHONPATH", "")]
    libraries = [str(library.parent), environment.get("LD_LIBRARY_PATH", "")]
    environment |= {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONFAULTHANDLER": "1",
        "STANDIN_BINDINGS": version,
        **options,
    }
    command = [sys.executable, "-m", "pytest", Path(__file__).with_name(cases), "-q"]
    plain = ["-p", "no:cacheprovider", "-p", "no:xdist", "-o", "python_files=cases_*.py"]
    ran = subprocess.run(
        [*command, *plain, f"--basetemp={tmp_path / 'child'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
        env=environment,
    )
    if ran.returncode or " passed" not in ran.stdout or " skipped" in ran.stdout:
        pytest.fail(f"pytest {cases} with cuda.bindings {version}:\n{ran.stdout}", pytrace=False)


@pytest.fixture(scope="session")
def installed() -> str:
    """The version of `cuda.bindings` that is installed."""
    try:
        return importlib.metadata.version("cuda-bindings")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("cuda-bindings is not installed")


@pytest.mark.parametrize("cases", WITH_LONG_ONES_SLOW)
def test_cases(cases: str, library: Path, installed: str, tmp_path: Path) -> None:
    run_cases(cases, library, installed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("offset", range(SHARES))
def test_every_call_of_the_driver_fails_in_turn(
    offset: int, library: Path, installed: str, tmp_path: Path
) -> None:
    """Each one, in shares: the stand-in never uses an address again, and grows slow with them."""
    options = {"STANDIN_EVERY": str(SHARES), "STANDIN_OFFSET": str(offset)}
    run_cases("cases_failures.py", library, installed, tmp_path, **options)


@pytest.mark.slow
@pytest.mark.parametrize("cases", CASES)
def test_cases_with_the_oldest_bindings(
    cases: str, library: Path, oldest_bindings: Path, tmp_path: Path
) -> None:
    run_cases(cases, library, OLDEST, tmp_path, oldest_bindings)
