"""The NVIDIA GPUs of this machine, and the one that engines run on.

Asks the driver and loads no engine library. A driver that does not answer is no GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

NVIDIA_SMI_S = 10.0
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


def cuda_gpu() -> Gpu | None:
    """The GPU that CUDA calls device 0, which CUDA_VISIBLE_DEVICES chooses; None without one."""
    found = _cuda_device()
    return found if isinstance(found, Gpu) else None


def why_no_gpu() -> str:
    """What stands against using a GPU here, or nothing where CUDA finds one."""
    found = _cuda_device()
    return found if isinstance(found, str) else ""


@cache
def _cuda_device() -> Gpu | str:
    """CUDA's device 0, or why there is none.

    Its driver is told by nvidia-smi, or where that is missing (a container) as CUDA's version.
    """
    listed = nvidia_gpus()
    try:
        from cuda.bindings import runtime as cudart

        failed, properties = cudart.cudaGetDeviceProperties(0)
        _, version = cudart.cudaDriverGetVersion()
        _, needed = cudart.cudaRuntimeGetVersion()
    except Exception as error:  # not installed, or no driver library: kinds of the binding's own
        if not listed:
            return "no NVIDIA driver answers"
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        return f"cuda-python does not load beside the {listed[0].name} ({told})"
    if int(failed):
        return _why_failed(failed.name, version, needed)
    return Gpu(
        name=properties.name.split(b"\0")[0].decode(errors="replace"),
        driver=listed[0].driver if listed else f"CUDA {_dotted(version)}",
        memory=f"{properties.totalGlobalMem // 2**20} MiB",
        compute_capability=f"{properties.major}.{properties.minor}",
    )


def _why_failed(error: str, version: int, needed: int) -> str:
    """CUDA's refusal in words; it gives the same code for no driver and for one that is old."""
    if version == 0:
        return "no NVIDIA driver answers"
    if error == "cudaErrorInsufficientDriver":
        return f"the driver is for CUDA {_dotted(version)}, too old for CUDA {_dotted(needed)}"
    if error == "cudaErrorNoDevice":
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        chosen = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
        return f"the driver shows CUDA no GPU{chosen}"
    return f"CUDA refuses device 0: {error}"


def _dotted(version: int) -> str:
    """CUDA's number of a version, 13010, as people write it: 13.1."""
    return f"{version // 1000}.{version % 1000 // 10}"
