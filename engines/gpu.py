"""The NVIDIA GPUs of this machine, and the one that engines run on.

Asks the driver and loads no engine library. A driver that does not answer is no GPU.
"""

from __future__ import annotations

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
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        listed = subprocess.run(
            [command, f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=NVIDIA_SMI_S,
            stdin=subprocess.DEVNULL,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = ([field.strip() for field in line.split(",")] for line in listed.splitlines())
    return [Gpu(*row) for row in rows if len(row) == len(GPU_FIELDS.split(","))]


@cache
def cuda_gpu() -> Gpu | None:
    """The GPU that CUDA calls device 0, which CUDA_VISIBLE_DEVICES chooses; None without one.

    Its driver is told by nvidia-smi, or where that is missing (a container) as CUDA's version.
    """
    try:
        from cuda.bindings import runtime as cudart

        failed, properties = cudart.cudaGetDeviceProperties(0)
        version_failed, version = cudart.cudaDriverGetVersion()
    except Exception:  # not installed, or no driver library: the binding raises kinds of its own
        return None
    if int(failed) or int(version_failed):
        return None
    listed = nvidia_gpus()
    return Gpu(
        name=properties.name.split(b"\0")[0].decode(errors="replace"),
        driver=listed[0].driver if listed else f"CUDA {version // 1000}.{version % 1000 // 10}",
        memory=f"{properties.totalGlobalMem // 2**20} MiB",
        compute_capability=f"{properties.major}.{properties.minor}",
    )
