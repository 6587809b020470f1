"""What ComfyUI's registry would get: the files that git tracks, less those of .comfyignore."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

import streamdiffvsr

pathspec = pytest.importorskip("pathspec", reason="of the dev extra")

ROOT = Path(streamdiffvsr.__file__).resolve().parent
MOST_BYTES = 12_000_000


@pytest.fixture(scope="module")
def packed() -> set[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    spec = pathspec.GitIgnoreSpec.from_lines(lines)
    tracked = [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    return {name for name in tracked if not spec.match_file(name)}


@pytest.mark.slow
def test_the_archive_is_small(packed):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in packed:
            archive.write(ROOT / name, name)
    assert whole.getbuffer().nbytes < MOST_BYTES


def test_the_archive_has_all_that_the_nodes_need(packed):
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    setuptools = project["tool"]["setuptools"]
    for package in setuptools["packages"]:
        folder = ROOT.joinpath(*package.split(".")[1:])
        assert {path.relative_to(ROOT).as_posix() for path in folder.glob("*.py")} <= packed
    for pattern in setuptools["package-data"]["streamdiffvsr"]:
        found = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern) if path.is_file()}
        assert found <= packed, pattern
    assert {"pyproject.toml", "requirements.txt", "install.py", "README.md", "LICENSE"} <= packed
    assert "docs/images/comfyui-icon.svg" in packed
    examples = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("example_workflows/*")}
    assert examples <= packed


def test_the_archive_has_nothing_that_serves_developers_alone(packed):
    top = {name.split("/")[0] for name in packed}
    assert not top & {"tests", "research", "tools", "deploy", ".github", ".ci", "Dockerfile"}


def test_every_line_of_the_ignore_file_leaves_something_out():
    for line in (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            assert list(ROOT.glob(line)), f"{line} is not there any more"
