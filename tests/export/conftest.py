"""Model folders for the tests of `export/`: random ones to break."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from streamdiffvsr.export.random_model import write_random_model

torch.set_num_threads(1)  # at these sizes more threads only wait for each other


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the small preset; not to be changed."""
    return write_random_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_model(tiny_source: Path, tmp_path: Path) -> Path:
    """A copy of it for one test to break."""
    return Path(shutil.copytree(tiny_source, tmp_path / "model"))


@pytest.fixture
def edit(tiny_model: Path) -> Callable[[str, dict[str, Any]], Path]:
    """Change keys of one JSON file of the copy; returns the file."""

    def change(name: str, values: dict[str, Any]) -> Path:
        path = tiny_model / name
        keys = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(keys | values), encoding="utf-8")
        return path

    return change
