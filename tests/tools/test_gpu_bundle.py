"""The bundle for a GPU machine: made here, unpacked in another folder, nothing downloaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import streamdiffvsr

ROOT = Path(streamdiffvsr.__file__).resolve().parent
MIB = 2**20


def is_checkout() -> bool:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True)
    return done.returncode == 0


pytestmark = pytest.mark.skipif(
    shutil.which("git") is None or not is_checkout(), reason="the source is packed by git"
)


def sh(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(script), *arguments],
        capture_output=True,
        text=True,
        cwd=script.parent,
        env=os.environ | {"PYTHON": sys.executable},
    )


def write_wheel(folder: Path, name: str, release: str) -> None:
    """A wheel of one module, which says its release."""
    info = f"{name}-{release}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{release}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"RELEASE = {release!r}\n")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source, one package that is there already and one that is not; onnxruntime in parts."""
    folder = tmp_path_factory.mktemp("bundle")
    wheels = folder / "wheels"
    wheels.mkdir()
    write_wheel(wheels, "nvtx", "99.1")
    write_wheel(wheels, "pytest", "0.1")
    write_wheel(wheels, "unasked", "1.0")
    (wheels / "onnxruntime_gpu-99.1-py3-none-any.whl").write_bytes(os.urandom(5 * MIB))
    out = folder / "parts"
    made = sh(
        ROOT / "tools/gpu_bundle.sh",
        *("--part-mib", "2", "--no-ahead", "--wheels", str(wheels)),
        *("--backend", "torch", "--backend", "onnxruntime", str(out)),
    )
    assert made.returncode == 0, made.stderr
    assert "unasked" not in made.stdout
    return out


@pytest.mark.slow
def test_no_part_is_larger_than_asked(bundle: Path) -> None:
    parts = sorted(bundle.iterdir())
    assert [p.name for p in parts] == [f"part-{n + 1:02}" for n in range(len(parts))]
    for part in parts:
        size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        assert size <= 2 * MIB, part


@pytest.mark.slow
def test_it_runs_when_its_parts_are_there(bundle: Path, tmp_path: Path) -> None:
    """With no time for any step: what is seen is the way there."""
    there, work, out = tmp_path / "there", tmp_path / "work", tmp_path / "out"
    script = there / "part-01/run_on_gpu.sh"
    arguments = ("--out", str(out), "--work", str(work), "--minutes", "0")
    last = sorted(bundle.iterdir())[-1].name
    shutil.copytree(bundle / "part-01", there / "part-01")
    first = sh(script, *arguments)
    assert first.returncode == 3 and first.stdout.startswith("waiting for part-02"), first

    for part in bundle.iterdir():
        if part.name not in ("part-01", last):
            shutil.copytree(part, there / part.name)
    second = sh(script, *arguments)
    assert f"waiting for {last}\n" in second.stdout, second
    assert "pytest" in second.stdout and "is there" in second.stdout
    assert (work / "site/nvtx.py").read_text() == "RELEASE = '99.1'\n"
    assert not (work / "site/pytest.py").exists()
    assert (work / "streamdiffvsr/Makefile").read_bytes() == (ROOT / "Makefile").read_bytes()
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps][:3] == ["doctor", "checks", "tests of torch"]
    assert not any("onnxruntime" in s["step"] for s in steps)

    damaged = there / last
    shutil.copytree(bundle / last, damaged)
    wheel = next(path for path in (damaged / "wheels").iterdir())
    wheel.write_bytes(b"cut")
    assert "is damaged" in sh(script, *arguments).stderr


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    made = sh(ROOT / "tools/gpu_bundle.sh", str(tmp_path))
    assert made.returncode == 1
    assert made.stderr == f"error: {tmp_path} is not empty; choose another folder\n"


def test_the_ways_to_call_it_are_told() -> None:
    told = sh(ROOT / "tools/gpu_bundle.sh", "--help")
    assert told.returncode == 0 and "--part-mib" in told.stdout
