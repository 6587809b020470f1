"""The NVIDIA GPUs of this machine, and the one that engines run on.

Asks the driver and loads no engine library. A driver that does not answer is no GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..errors import StreamDiffVSRError
from .cuda_driver import NO_DEVICE, CudaError, driver_call

NVIDIA_SMI_S = 10.0
NAME_BYTES = 128
PARTS = ("MAJOR", "MINOR")
GPU_FIELDS = "name,driver_version,memory.total,compute_cap"


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU, in the words of its driver."""

    name: str
    driver: str
    memory: str
    compute_capability: str

    @property
    def sm(self) -> str:
        """The compute capability as engines name it: sm89 for 8.9."""
        return f"sm{self.compute_capability.replace('.', '')}"


def nvidia_gpus() -> list[Gpu]:
    """The GPUs that the NVIDIA driver lists; none where there is no driver."""
    rows = ask_driver(GPU_FIELDS)
    whole = (row for row in rows if len(row) == len(GPU_FIELDS.split(",")))
    return [Gpu(name, driver, f"{memory} MiB", sm) for name, driver, memory, sm in whole]


def ask_driver(fields: str) -> list[list[str]]:
    """What nvidia-smi tells of each GPU.

    Args:
        fields: As its `--query-gpu` names them, with commas between them.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        listed = subprocess.run(
            [command, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=NVIDIA_SMI_S,
            stdin=subprocess.DEVNULL,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [[field.strip() for field in line.split(",")] for line in listed.splitlines()]


def cuda_gpu(ordinal: int = 0) -> Gpu | None:
    """A GPU by its number among those that CUDA shows; None without one.

    CUDA_VISIBLE_DEVICES chooses which those are, and in what order.
    """
    found = _cuda_device(ordinal)
    return found if isinstance(found, Gpu) else None


def why_no_gpu(ordinal: int = 0) -> str:
    """What stands against using a GPU here, or nothing where CUDA finds it."""
    found = _cuda_device(ordinal)
    return found if isinstance(found, str) else ""


@cache
def _cuda_device(ordinal: int) -> Gpu | str:
    """CUDA's device of a number, or why there is none.

    Asks what `CudaDevice` will use, and makes no context. The driver is told by nvidia-smi, or
    where that is missing (a container) as CUDA's version.
    """
    listed = nvidia_gpus()
    try:
        driver_call("cuInit", 0)
        count = driver_call("cuDeviceGetCount")
        if ordinal >= count:
            return _why_too_few(ordinal, count)
        return _described(driver_call("cuDeviceGet", ordinal), listed)
    except CudaError as error:
        return _why_failed(error)
    except StreamDiffVSRError as error:  # not installed, or no driver library
        if not listed:
            return "no NVIDIA driver answers"
        told = (error.why or error.what).splitlines()[0]
        return f"cuda-python does not load beside the {listed[0].name} ({told})"


def _described(device: Any, listed: list[Gpu]) -> Gpu:
    name = driver_call("cuDeviceGetName", NAME_BYTES, device)
    major, minor = (driver_call("cuDeviceGetAttribute", _attribute(p), device) for p in PARTS)
    version = driver_call("cuDriverGetVersion")
    return Gpu(
        name=bytes(name).split(b"\0")[0].decode(errors="replace"),
        driver=listed[0].driver if listed else f"CUDA {_dotted(version)}",
        memory=f"{driver_call('cuDeviceTotalMem', device) // 2**20} MiB",
        compute_capability=f"{major}.{minor}",
    )


def _attribute(part: str) -> Any:
    from cuda.bindings import driver

    return getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}")


def _why_failed(error: CudaError) -> str:
    """CUDA's refusal in words."""
    if error.code != NO_DEVICE:
        return f"CUDA refuses to start: {error.why}"
    return _why_too_few(0, 0)


def _why_too_few(ordinal: int, count: int) -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
    if count == 0:
        return f"the driver shows CUDA no GPU{chosen}"
    return f"there is no cuda:{ordinal}, CUDA shows {count}{chosen}"


def _dotted(version: int) -> str:
    """CUDA's number of a version, 13010, as people write it: 13.1."""
    return f"{version // 1000}.{version % 1000 // 10}"
