"""What `--backend auto` takes, and what it says of the others."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from streamdiffvsr.engines import choice, gpu
from streamdiffvsr.engines.backends import BACKENDS, Backend, require_backend
from streamdiffvsr.engines.choice import choose
from streamdiffvsr.engines.gpu import Gpu
from streamdiffvsr.errors import StreamDiffVSRError, UsageError

ADA = Gpu("RTX 4090", "580.1", "24564 MiB", "8.9")
HOPPER = Gpu("H200", "580.1", "143771 MiB", "9.0")


class Machine:
    """What is installed and found, in place of what this machine has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.installed = {"onnxruntime", "torch", "tensorrt_rtx"}
        self.gpu: Gpu | str = "no NVIDIA driver answers"
        self.providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        self.torch_cuda = True
        monkeypatch.setattr(choice, "find_spec", lambda name: name in self.installed or None)
        monkeypatch.setattr(choice, "why_no_gpu", self._why_no_gpu)
        monkeypatch.setattr(choice, "cuda_gpu", lambda: self.gpu)
        monkeypatch.setattr(
            choice,
            "load_library",
            lambda name: SimpleNamespace(builds_for_named_gpus="rtx" in name),
        )
        monkeypatch.setattr(choice, "require_backend", self._backend)
        ort = SimpleNamespace(get_available_providers=lambda: self.providers)
        monkeypatch.setitem(sys.modules, "onnxruntime", ort)
        cuda = SimpleNamespace(is_available=lambda: self.torch_cuda)
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))

    def _backend(self, name: str) -> Backend:
        return BACKENDS[name] if name in BACKENDS else require_backend(name)

    def _why_no_gpu(self) -> str:
        return self.gpu if isinstance(self.gpu, str) else ""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_the_cpu_where_there_is_no_gpu(machine: Machine) -> None:
    chosen = choose()
    assert (chosen.backend, chosen.precision, chosen.device) == ("onnxruntime", "fp32", "cpu")
    assert chosen.describe() == (
        "backend: onnxruntime on the CPU, fp32; not the GPU: no NVIDIA driver answers"
    )


def test_tensorrt_before_all_others(machine: Machine) -> None:
    machine.gpu = ADA
    machine.installed.add("tensorrt")
    assert choose().describe() == "backend: tensorrt on the GPU, fp16"


def test_every_better_one_that_does_not_work_is_named_with_its_reason(machine: Machine) -> None:
    machine.gpu = HOPPER
    machine.providers.remove("CUDAExecutionProvider")
    chosen = choose()
    assert (chosen.backend, chosen.device) == ("torch", "cuda")
    told = chosen.describe()
    assert "not tensorrt (cuda): not installed" in told
    assert "not tensorrt-rtx (cuda): it makes no plans for sm90" in told
    assert "not onnxruntime (cuda): this build of it has no CUDAExecutionProvider" in told


def test_a_device_that_is_asked_for(machine: Machine) -> None:
    machine.gpu = ADA
    assert choose(device="cpu").backend == "onnxruntime"
    assert choose("onnxruntime").device == "cuda"
    assert choose("onnxruntime", device="cpu").precision == "fp32"
    assert choose("tensorrt-rtx").precision == "fp16"  # can be built without a GPU
    machine.gpu = "the driver is for CUDA 11.8, too old for CUDA 13.0"
    assert choose("onnxruntime").device == "cpu"
    assert choose("tensorrt-rtx").device == "cuda"
    with pytest.raises(
        StreamDiffVSRError,
        match=r"on the GPU here: the driver is .*too old for CUDA 13.0; leave out --device",
    ):
        choose(device="cuda")


def test_nothing_installed(machine: Machine) -> None:
    machine.installed.clear()
    with pytest.raises(
        StreamDiffVSRError,
        match=r"not .*onnxruntime \(cpu\), torch \(cpu\): not installed; run pip install",
    ):
        choose()


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="unknown backend 'coreml'"):
        choose("coreml")
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        choose(device="tpu")


class Cudart:
    """CUDA's runtime as a machine has it: (error of device 0, the driver's version)."""

    def __init__(self, error: str, driver: int) -> None:
        self.error, self.driver = error, driver

    def cudaGetDeviceProperties(self, device: int) -> Any:
        return _Code(self.error), None

    def cudaDriverGetVersion(self) -> Any:
        return _Code("cudaSuccess"), self.driver

    def cudaRuntimeGetVersion(self) -> Any:
        return _Code("cudaSuccess"), 13000


class _Code:
    def __init__(self, name: str) -> None:
        self.name = name

    def __int__(self) -> int:
        return int(self.name != "cudaSuccess")


@pytest.mark.parametrize(
    ("error", "driver", "told"),
    [
        ("cudaErrorInsufficientDriver", 0, "no NVIDIA driver answers"),
        ("cudaErrorInsufficientDriver", 11080, "for CUDA 11.8, too old for CUDA 13.0"),
        ("cudaErrorNoDevice", 13000, "shows CUDA no GPU (CUDA_VISIBLE_DEVICES is '')"),
        ("cudaErrorDevicesUnavailable", 13000, "CUDA refuses device 0"),
    ],
)
def test_why_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, error: str, driver: int, told: str
) -> None:
    pytest.importorskip("cuda.bindings.runtime")
    monkeypatch.setattr("cuda.bindings.runtime", Cudart(error, driver))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    gpu._cuda_device.cache_clear()
    assert told in gpu.why_no_gpu()
    assert gpu.cuda_gpu() is None
    gpu._cuda_device.cache_clear()


def test_a_driver_without_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = subprocess.CompletedProcess([], 0, "RTX 4090, 580.1, 24564 MiB, 8.9\n", "")
    monkeypatch.setattr(gpu.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(gpu.subprocess, "run", lambda *_args, **_keywords: listed)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    gpu._cuda_device.cache_clear()
    assert "cuda-python does not load beside the RTX 4090" in gpu.why_no_gpu()
    gpu._cuda_device.cache_clear()


def test_fp8_is_of_the_backends_that_have_it(machine: Machine) -> None:
    with pytest.raises(StreamDiffVSRError, match=r"it has no fp8.*use --precision fp16") as caught:
        choose(precision="fp8")
    assert "onnxruntime (cpu)" in str(caught.value) and "\n" not in str(caught.value)
    machine.gpu = ADA
    chosen = choose(precision="fp8")
    assert (chosen.backend, chosen.precision, chosen.device) == ("tensorrt-rtx", "fp8", "cuda")
    machine.installed.remove("tensorrt_rtx")
    with pytest.raises(StreamDiffVSRError, match=r"tensorrt-rtx \(cuda\): .*has no fp8"):
        choose(precision="fp8")
