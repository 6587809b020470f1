"""Facts about this machine: GPUs, memory, disk, installed packages and precisions that work.

It asks nothing that is slow or on a network; a question that a library or a driver does not answer
is answered with None.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import OR_DOCTOR, StreamDiffVSRError, UsageError, option
from ..graphs.spec import Precision
from .cuda_driver import NO_DEVICE, CudaError, driver_call, primary_context
from .interface import kind_of, ordinal_of

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
def gpu_address(ordinal: int) -> str:
    """Where a GPU sits on the PCI bus, which numbers it for all programs alike; "" without one."""
    try:
        driver_call("cuInit", 0)
        address = driver_call(
            "cuDeviceGetPCIBusId", NAME_BYTES, driver_call("cuDeviceGet", ordinal)
        )
        return bytes(address).split(b"\0")[0].decode().lower()
    except StreamDiffVSRError:
        return ""


@cache
def gpu_count() -> int:
    """How many GPUs CUDA shows; none where it cannot be asked."""
    try:
        driver_call("cuInit", 0)
        return int(driver_call("cuDeviceGetCount"))
    except StreamDiffVSRError:
        return 0


def check_gpu(device: str) -> None:
    """Raise `StreamDiffVSRError` where a GPU that is named by its number is not there.

    "cuda" alone can mean the GPU of another machine: some engines are built without one.
    """
    if ":" in device and (obstacle := why_no_gpu(ordinal_of(device))):
        raise StreamDiffVSRError(
            f"{device} cannot be used here",
            obstacle,
            f"use another {option('device')}{OR_DOCTOR}",
        )


@contextlib.contextmanager
def current_gpu(device: str) -> Iterator[None]:
    """Make a GPU this thread's current one inside: compilers build for that. Not where none is."""
    if kind_of(device) == "cpu" or why_no_gpu(ordinal_of(device)):
        yield
        return
    with primary_context(ordinal_of(device)).current():
        yield


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
        return f"cuda-bindings does not load beside the {listed[0].name} ({told})"


def _described(device: Any, listed: list[Gpu]) -> Gpu:
    name = driver_call("cuDeviceGetName", NAME_BYTES, device)
    major, minor = (driver_call("cuDeviceGetAttribute", _attribute(p), device) for p in PARTS)
    version = driver_call("cuDriverGetVersion")
    return Gpu(
        name=bytes(name).split(b"\0")[0].decode(errors="replace"),
        driver=listed[0].driver if listed else f"CUDA {dotted(version)}",
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


def dotted(version: int) -> str:
    """CUDA's number of a version, 13010, as people write it: 13.1."""
    return f"{version // 1000}.{version % 1000 // 10}"


TORCH_MODULES = ("torch", "transformers", "huggingface_hub")
LIVE_MODULES = ("tenacity", "aiohttp", "prometheus_client")
EXPORT_MODULES = (*TORCH_MODULES, "onnx", "onnxscript", "onnx_graphsurgeon", "polygraphy")


def package_version(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def missing_export(needed: tuple[str, ...] = EXPORT_MODULES) -> list[str]:
    """The modules of the export extra that are not installed."""
    return [name for name in needed if find_spec(name) is None]


def require_export(needed: tuple[str, ...] = EXPORT_MODULES) -> None:
    """Raise `StreamDiffVSRError` where engines cannot be built, naming what is missing."""
    if missing := missing_export(needed):
        raise StreamDiffVSRError(
            "engines cannot be built here",
            f"not installed: {', '.join(missing)}",
            "run pip install 'streamdiffvsr[export]', or bring an engine set built elsewhere",
        )


def missing_live() -> list[str]:
    """The modules of the live extra that are not installed."""
    return [name for name in LIVE_MODULES if find_spec(name) is None]


def require_live() -> None:
    """Raise `StreamDiffVSRError` where live sources cannot be read, naming what is missing."""
    if missing := missing_live():
        raise StreamDiffVSRError(
            "live sources cannot be upscaled here",
            f"not installed: {', '.join(missing)}",
            "run pip install 'streamdiffvsr[live]'",
        )


def free_bytes(folder: Path) -> int | None:
    """Free disk space where a folder is or would be made."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def onnxruntime_providers() -> list[str]:
    """The execution providers of the installed ONNX Runtime, none if it cannot be loaded."""
    try:
        import onnxruntime

        return list(onnxruntime.get_available_providers())
    except Exception:  # a library of the wrong platform fails in its own ways
        return []


CGROUP = Path("/sys/fs/cgroup")  # version 2; of the container, seen from inside


def free_host_bytes() -> int:
    """Memory that this process could still take, swap included, within its container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available + psutil.swap_memory().free)
    limit = _container_free_bytes()
    return free if limit is None else min(free, limit)


def free_device_bytes(ordinal: int = 0) -> int | None:
    """Free memory of a GPU by its number; None where there is none to ask."""
    try:
        free, _ = primary_context(ordinal).call("cuMemGetInfo")
        return int(free)
    except StreamDiffVSRError:
        return None


def _container_free_bytes() -> int | None:
    """What a control group leaves; files that it has read count as used, and give way."""
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        lines = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        given_back = next(int(s.split()[1]) for s in lines if s.startswith("inactive_file "))
        return None if limit == "max" else max(0, int(limit) - used + given_back)
    except (OSError, ValueError, IndexError, StopIteration):
        return None  # no control groups, or of version 1


FP8 = "fp8"
FLOATS = ("fp32", "fp16")
PRECISIONS = (*FLOATS, FP8)
FP8_CAPABILITY = 89  # Ada, Hopper, Blackwell: older tensor cores have no e4m3


def graph_precision(name: str) -> Precision:
    """What the graphs of a set are exported in."""
    return "fp32" if name == "fp32" else "fp16"


def check_precision(name: str) -> None:
    """Raise `UsageError` unless there is such a precision."""
    if name not in PRECISIONS:
        known = f"{', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}"
        raise UsageError(f"unknown precision {name!r}", remedy=f"use {known}")


def check_capability(capabilities: tuple[int, ...], precision: str) -> None:
    """Raise `UsageError` where one of the GPUs that engines are for cannot compute so.

    Args:
        capabilities: Of those GPUs, 89 for 8.9.
    """
    short = [c for c in capabilities if c < FP8_CAPABILITY]
    if precision == FP8 and short:
        told = ", ".join(f"{c // 10}.{c % 10}" for c in short)
        raise UsageError(
            "fp8 engines need compute capability 8.9 or newer",
            f"a GPU of {told} does not multiply in fp8",
            f"leave it out ({option('compute_capabilities', (89, 120))}), or use "
            f"{option('precision', 'fp16')}",
        )
