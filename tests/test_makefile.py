"""Tests `make` without installing anything: its targets, and its clear refusals."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import streamdiffvsr

ROOT = Path(streamdiffvsr.__file__).resolve().parent
TARGETS = (
    "setup",
    "demo",
    "train-tiny",
    "engines",
    "test",
    "test-slow",
    "test-gpu",
    "lint",
    "docs",
    "clean",
    "help",
)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, env=env)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Returns a folder with an awkward name that holds the files `make` reads."""
    folder = tmp_path / "my checkout (1)"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "tools", folder / "tools")
    return folder


def test_help_names_every_target(checkout):
    for arguments in ((), ("help",)):
        done = make(checkout, *arguments)
        assert done.returncode == 0
        assert all(f"make {target} " in done.stdout for target in TARGETS)


@pytest.mark.parametrize("target", [name for name in TARGETS[:-2] if name != "demo"])
def test_every_target_begins_with_the_set_up(checkout, target):
    done = make(checkout, "-n", target, "EXTRA=cpu")
    assert done.returncode == 0, done.stderr
    assert "tools/make_venv.sh" in done.stdout
    assert ".[cpu,export,train,live,whip,bench,dev]" in done.stdout
    assert "-c constraints.txt" in done.stdout
    assert ".[tensorrt-rtx]" in done.stdout


def installs(printed: str) -> list[str]:
    """Returns what pip would install, in order."""
    return re.findall(r"-e '\.\[(.*?)\]'", printed)


@pytest.mark.parametrize(
    ("arguments", "extras"), [((), "cpu"), (("EXTRA=cpu",), "cpu"), (("EXTRA=cuda",), "cuda")]
)
def test_the_demo_installs_only_what_it_needs(checkout, arguments, extras):
    done = make(checkout, "-n", "demo", *arguments)
    assert done.returncode == 0, done.stderr
    assert "tools/make_venv.sh" in done.stdout and "-c constraints.txt" in done.stdout
    assert installs(done.stdout) == [extras]


@pytest.mark.parametrize(
    ("stamp", "target", "extras"),
    [
        ("demo-cpu", "demo", []),
        ("demo-cpu", "test", ["cpu,export,train,live,whip,bench,dev", "tensorrt-rtx", "fp8"]),
        ("cpu", "demo", []),
        ("cpu", "test", []),
    ],
)
def test_what_is_installed_already_is_added_to(checkout, stamp, target, extras):
    tools = checkout / ".venv/bin"
    tools.mkdir(parents=True)
    (tools / "python").touch()
    (checkout / f".venv/.installed-{stamp}").write_text(f"{checkout}\n")
    later = time.time() + 60
    os.utime(checkout / f".venv/.installed-{stamp}", (later, later))
    done = make(checkout, "-n", target, "EXTRA=cpu")
    assert done.returncode == 0, done.stderr
    assert installs(done.stdout) == extras
    assert "make_venv" not in done.stdout


PIP = """
import sys
print("Collecting onnx==1.23.2")
print("  Downloading onnx-1.23.2-cp311.whl (17 MB)")
if "bad" in sys.argv:
    sys.exit("ERROR: No matching distribution found for bad")
print("Installing collected packages: numpy, onnx")
"""


@pytest.mark.parametrize(
    ("package", "code", "last"),
    [
        ("good", 0, r"installed 2 packages in \d+ s\n"),
        ("bad", 1, r"ERROR: No matching distribution found for bad\npip failed; .*pip\.log\n"),
    ],
)
def test_an_installation_is_a_line_for_each_step(tmp_path, package, code, last):
    (tmp_path / "pip.py").write_text(PIP)
    log = tmp_path / "pip.log"
    command = [sys.executable, str(ROOT / "tools/pip_install.py"), str(log), package]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == code, done.stderr
    assert re.search(last + "$", done.stdout), done.stdout
    assert log.read_text().startswith("Collecting onnx==1.23.2\n")


@pytest.mark.parametrize(("rtx", "lines"), [("yes", 1), ("no", 0)])
def test_a_machine_for_which_there_is_no_tensorrt_rtx_is_set_up_all_the_same(checkout, rtx, lines):
    """With a pip that knows everything but that."""
    tools = checkout / ".venv/bin"
    tools.mkdir(parents=True)
    for name, script in {"python": "", "pip": 'case "$*" in *tensorrt*) exit 1;; esac'}.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    later = time.time() + 60  # or make would make the environment again
    os.utime(tools / "python", (later, later))
    done = make(checkout, "setup", "EXTRA=cpu", f"RTX={rtx}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("TensorRT-RTX cannot be had here") == lines
    assert (checkout / ".venv/.installed-cpu").read_text() == f"{checkout}\n"


def test_the_package_is_linked_by_its_name(checkout):
    assert make(checkout, "links").returncode == 0
    assert (checkout / ".links/streamdiffvsr").resolve() == checkout.resolve()


@pytest.mark.parametrize("how", ["missing", "old"])
def test_no_python_or_an_old_one_is_one_line(checkout, how):
    python = checkout.parent / "python"
    if how == "old":
        python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1 && exit\nexit 1\n')
        python.chmod(0o755)
    done = make(checkout, "setup", f"PYTHON={python}", "EXTRA=cpu")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode == 2 and len(lines) == 1
    assert lines[0].startswith("error: ") and "3.10" in lines[0]
    assert not (checkout / ".venv").exists()


def test_a_python_without_ensurepip_is_mended_or_told(checkout, monkeypatch):
    tools = checkout.parent / "bin"
    tools.mkdir()
    scripts = {
        "python": 'case "$2" in *ensurepip*) exit 1;; *print*) echo python3.99-venv;; esac',
        "apt-get": f'echo "$*" >> "{checkout.parent}/asked"; exit 100',
        "sudo": '[ "$1" = -n ] && shift; exec "$@"',
    }
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    done = make(checkout, "setup", f"PYTHON={tools / 'python'}", "EXTRA=cpu")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1 and "run: sudo apt-get install python3.99-venv" in lines[0]
    assert (checkout.parent / "asked").read_text().startswith("update")
    assert not (checkout / ".venv").exists()


def test_an_environment_that_was_made_elsewhere_is_dropped(checkout):
    (checkout / ".venv").mkdir()
    stamp = checkout / ".venv" / ".installed-cpu"
    stamp.write_text(f"{checkout}\n")
    assert make(checkout, "links").returncode == 0 and stamp.exists()
    stamp.write_text("/somewhere/else\n")
    assert make(checkout, "links").returncode == 0 and not stamp.exists()
