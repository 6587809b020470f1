"""What a measurement must name: the machine and the versions. Shared by the benchmarks."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import psutil

from ..engines.gpu import cuda_gpu
from ..engines.ort import usable_cpus
from ..host import package_version

if sys.platform != "win32":
    import resource

PACKAGES = (
    "streamdiffvsr",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "torch",
    "cuda-core",
    "numpy",
    "av",
)


def describe_machine() -> dict[str, object]:
    """Processor, cores, GPU and its driver, system and library versions of this machine."""
    return {
        "cpu": _cpu_name(),
        "cores": usable_cpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gpu": None if (gpu := cuda_gpu()) is None else asdict(gpu),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "versions": {name: v for name in PACKAGES if (v := package_version(name))},
    }


def peak_memory_mb() -> int:
    """Largest resident size of this process so far, in MiB."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset) // 2**20
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the parent's size before the exec
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20  # bytes on macOS


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
