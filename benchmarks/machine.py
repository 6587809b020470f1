"""Describes the machine and the versions that a measurement was made with."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import psutil

from ..engines.host import ask_driver, cuda_gpu, gpu_address, package_version
from ..engines.interface import kind_of, ordinal_of
from ..engines.onnxruntime_backend import usable_cpus
from ..engines.registry import BACKENDS, installed_package

if sys.platform != "win32":
    import resource

# By the driver's names; the clock of an idle GPU is lower than under load.
GPU_POWER = {
    "gpu_clock_mhz": "clocks.current.sm",
    "gpu_max_clock_mhz": "clocks.max.sm",
    "gpu_power_limit_w": "power.limit",
    "gpu_power_w": "power.draw",
    "gpu_temperature_c": "temperature.gpu",
}
PACKAGES = ("cuda-bindings", "numpy", "av")


def describe_machine(device: str | None = None) -> dict[str, object]:
    """Returns this machine's processor, cores, GPU and driver, system and library versions.

    Args:
        device: The GPU to describe, "cuda:1"; the first if this names no GPU.
    """
    ordinal = ordinal_of(device) if device is not None and kind_of(device) == "cuda" else 0
    return {
        "cpu": _cpu_name(),
        "cores": usable_cpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gpu": None if (gpu := cuda_gpu(ordinal)) is None else asdict(gpu),
        "power": describe_power(ordinal),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    """Returns the versions of this package, of the installed backends and of what all use."""
    backends = dict(filter(None, map(installed_package, BACKENDS.values())))
    others = {name: package_version(name) for name in ("streamdiffvsr", *PACKAGES)}
    found = {"streamdiffvsr": others.pop("streamdiffvsr"), **backends, **others}
    return {name: version for name, version in found.items() if version}


def describe_power(ordinal: int = 0) -> dict[str, object] | None:
    """Returns what limits the clocks, as far as known: mains or battery, limits, clocks.

    Args:
        ordinal: The GPU's number in CUDA; the driver's own tool may number them differently.
    """
    found: dict[str, object] = {}
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    if battery is not None:
        found["source"] = "ac" if battery.power_plugged else "battery"
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.is_file():
        found["governor"] = governor.read_text().strip()
    for name, value in zip(GPU_POWER, _power_row(ordinal), strict=False):
        with contextlib.suppress(ValueError):  # "[N/A]" for what a GPU does not report
            found[name] = float(value)
    return found or None


def _power_row(ordinal: int) -> list[str]:
    """Returns the values of `GPU_POWER` for a GPU; without CUDA, those of the only GPU."""
    rows = ask_driver(",".join(("pci.bus_id", *GPU_POWER.values())))
    address = gpu_address(ordinal).lstrip("0")  # the tool writes the domain with more zeros
    if address:
        rows = [row for row in rows if row and row[0].lower().lstrip("0") == address]
    return rows[0][1:] if len(rows) == 1 else []


def peak_memory_mb() -> int:
    """Returns the largest resident size of this process so far, in MiB."""
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
