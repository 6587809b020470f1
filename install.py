"""Installs ONNX Runtime for the ComfyUI nodes: the package for this machine, if there is none yet.

ComfyUI-Manager runs it after requirements.txt, which cannot know whether there is a GPU. By hand:
PYTHON install.py, where PYTHON runs ComfyUI; with --dry-run it only prints the command. Installed
packages stay as they are.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

# What ComfyUI's torch computes with: the CUDA version that it was built for, or nothing on a CPU.
ASK_TORCH = "import torch; print(torch.cuda.is_available() and torch.version.cuda or '')"
TORCH_S = 300.0
# The first onnxruntime-gpu for CUDA 13. The libraries of another CUDA than torch's would overwrite
# torch's cuDNN, and might need a newer driver.
OF_CUDA_13 = "1.27"
VERSION = re.compile(r"(\d+!)?\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[a-z0-9.]+)?")


def main(arguments: list[str]) -> int:
    """Returns the exit code; 0 also if nothing could be installed, as the nodes run without it."""
    installed = installed_versions()
    if present := sorted(name for name in installed if name.startswith("onnxruntime")):
        return _say(f"{present[0]} {installed[present[0]]} is installed; it stays as it is")
    if find_spec("torch") is None:
        _say(f"torch is not installed in {sys.executable}; run this with the Python of ComfyUI")
        return 1
    cuda = cuda_of_torch()
    if cuda is None:
        return _say("torch does not start here, so nothing is installed; see its error above")
    wanted = requirement(cuda)
    with tempfile.TemporaryDirectory(prefix="streamdiffvsr-") as folder:
        # Not in this folder, whose modules must not hide another package's.
        constraints = Path(folder, "constraints.txt")
        constraints.write_text(pins(installed), encoding="utf-8")
        command = [*installer(), "-c", str(constraints), wanted]
        _say(f"installing {wanted}")
        if "--dry-run" in arguments:
            return _say(subprocess.list2cmdline(command))
        try:
            failed = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL).returncode
        except OSError as error:
            failed = _say(f"{command[0]}: {error.strerror}") or 1
    if failed:
        return _say(
            f"{wanted} cannot be installed without changing other packages, or not from here; "
            "the nodes run on torch, more slowly"
        )
    return _say("done; restart ComfyUI")


def installed_versions() -> dict[str, str]:
    """Returns the version of every installed package by its normalised name."""
    named = ((package.metadata["Name"], package.version) for package in distributions())
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in named if name}


def cuda_of_torch() -> str | None:
    """Returns the CUDA version that torch uses, "" on a CPU, or None if torch does not start."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", ASK_TORCH],
            cwd=tempfile.gettempdir(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            timeout=TORCH_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = asked.stdout.splitlines()
    return None if asked.returncode or not lines else lines[-1].strip()


def requirement(cuda: str) -> str:
    """Returns the package for a CUDA version, such as "12.8", or for a CPU if that is empty."""
    if not cuda:
        return "onnxruntime>=1.22"
    fitting = f">={OF_CUDA_13}" if int(cuda.split(".")[0]) >= 13 else f">=1.22,<{OF_CUDA_13}"
    return f"onnxruntime-gpu[cuda,cudnn]{fitting}"


def pins(installed: dict[str, str]) -> str:
    """Returns constraints that keep every installed package at its version."""
    valid = ((name, version) for name, version in installed.items() if VERSION.fullmatch(version))
    return "".join(f"{name}=={version}\n" for name, version in sorted(valid))


def installer() -> list[str]:
    """Returns the command that installs into this Python: pip, or uv where there is no pip."""
    uv = shutil.which("uv")
    if find_spec("pip") is None and uv is not None:
        return [uv, "pip", "install", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install"]


def _say(line: str) -> int:
    print(f"streamdiffvsr: {line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
