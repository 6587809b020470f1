"""What a measurement must name: the machine and the versions. Shared by the benchmarks."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..engines.ort import usable_cpus

PACKAGES = ("streamdiffvsr", "onnxruntime", "onnxruntime-gpu", "torch", "numpy", "av")


def describe_machine() -> dict[str, object]:
    """Processor, cores, memory, system and library versions of this machine."""
    return {
        "cpu": _cpu_name(),
        "cores": usable_cpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "versions": {name: v for name in PACKAGES if (v := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
