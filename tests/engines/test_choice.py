"""Tests what `--backend auto` takes, and what it says of the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from streamdiffvsr.engines import (
    cuda_driver,
    host,
    onnxruntime_backend,
    registry,
    tensorrt_backend,
)
from streamdiffvsr.engines.host import Gpu
from streamdiffvsr.engines.registry import BACKENDS, Backend, choose, require_backend
from streamdiffvsr.errors import StreamDiffVSRError, UsageError

ADA = Gpu("RTX 4090", "580.1", "24564 MiB", "8.9")
HOPPER = Gpu("H200", "580.1", "143771 MiB", "9.0")


class Machine:
    """Stands in for this machine: the libraries that are installed, and the GPUs that are found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.installed = {"onnxruntime", "torch", "tensorrt_rtx"}
        self.gpu: Gpu | str = "no NVIDIA driver answers"
        self.others: list[Gpu] = []  # behind it
        self.provider = ""  # what stands against ONNX Runtime's of CUDA
        self.torch_cuda = True
        monkeypatch.setattr(registry, "find_spec", lambda name: name in self.installed or None)
        for module in (registry, host):
            monkeypatch.setattr(module, "why_no_gpu", self._why_no_gpu)
        gpus = lambda ordinal: [self.gpu, *self.others][ordinal]  # noqa: E731
        monkeypatch.setattr(tensorrt_backend, "cuda_gpu", gpus)
        monkeypatch.setattr(onnxruntime_backend, "why_no_cuda_provider", lambda: self.provider)
        monkeypatch.setattr(
            tensorrt_backend,
            "load_library",
            lambda name: SimpleNamespace(builds_for_named_gpus="rtx" in name),
        )
        monkeypatch.setattr(registry, "require_backend", self._backend)
        ort = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])
        monkeypatch.setitem(sys.modules, "onnxruntime", ort)
        count = lambda: 1 + len(self.others)  # noqa: E731
        cuda = SimpleNamespace(is_available=lambda: self.torch_cuda, device_count=count)
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))

    def _backend(self, name: str) -> Backend:
        return BACKENDS[name] if name in BACKENDS else require_backend(name)

    def _why_no_gpu(self, ordinal: int) -> str:
        if isinstance(self.gpu, str):
            return self.gpu
        count = 1 + len(self.others)
        return "" if ordinal < count else f"there is no cuda:{ordinal}, CUDA shows {count}"


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
    machine.provider = "libcublasLt.so.13 is missing: run pip install 'streamdiffvsr[cuda]'"
    chosen = choose()
    assert (chosen.backend, chosen.device) == ("torch", "cuda")
    told = chosen.describe()
    assert "not tensorrt (cuda): not installed" in told
    assert "not tensorrt-rtx (cuda): it makes no plans for sm90" in told
    assert f"not onnxruntime (cuda): {machine.provider}" in told


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
        match=r"on the GPU here: the driver is .*too old for CUDA 13.0; leave out device=",
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


def test_a_gpu_by_its_number(machine: Machine) -> None:
    machine.gpu, machine.others = ADA, [HOPPER]
    chosen = choose(device="cuda:1")
    assert (chosen.backend, chosen.device, chosen.kind) == ("onnxruntime", "cuda:1", "cuda")
    assert chosen.precision == "fp16"
    told = chosen.describe()
    assert told.startswith("backend: onnxruntime on GPU 1, fp16; ")
    assert "not tensorrt-rtx (cuda:1): it makes no plans for sm90" in told
    assert choose(device="cuda:0").backend == choose().backend == "tensorrt-rtx"
    assert choose("torch", device="cuda:1").device == "cuda:1"
    for backend in ("auto", "torch", "tensorrt-rtx"):
        with pytest.raises(
            StreamDiffVSRError,
            match=r"cuda:3 cannot be used here: there is no cuda:3, CUDA shows 2;",
        ):
            choose(backend, device="cuda:3")


def test_the_gpu_that_auto_tries(machine: Machine) -> None:
    machine.gpu, machine.others = HOPPER, [ADA]
    assert choose(gpu="cuda:1").describe().startswith("backend: tensorrt-rtx on GPU 1, fp16")
    assert choose("onnxruntime", gpu="cuda:1").device == "cuda:1"
    assert choose(gpu="cuda:2").device == choose("onnxruntime", gpu="cuda:2").device == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "cuda:-1", "CUDA", "cpu:0", ""])
def test_what_is_no_device_is_refused_in_one_line(machine: Machine, device: str) -> None:
    machine.gpu = ADA
    for backend in ("auto", "onnxruntime"):
        with pytest.raises(UsageError, match="use cpu, cuda or cuda:1") as caught:
            choose(backend, device=device)
        assert "\n" not in str(caught.value)


class Driver:
    """CUDA's driver API as a machine has it: GPUs of 8.9, or an error of `cuInit`."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major",
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
    )

    def __init__(self, *names: str, error: int = 0, version: int = 13000) -> None:
        self.names, self.error, self.version = names, error, version

    def cuInit(self, flags: int) -> Any:
        return (self.error,)

    def cuGetErrorString(self, error: int) -> Any:
        return 0, b"system not yet initialized"

    def cuDeviceGetCount(self) -> Any:
        return 0, len(self.names)

    def cuDeviceGet(self, ordinal: int) -> Any:
        return 0, ordinal

    def cuDeviceGetName(self, length: int, device: int) -> Any:
        return 0, self.names[device].encode().ljust(length, b"\0")

    def cuDeviceGetAttribute(self, attribute: str, device: int) -> Any:
        return 0, {"major": 8, "minor": 9}[attribute]

    def cuDeviceTotalMem(self, device: int) -> Any:
        return 0, 24564 * 2**20

    def cuDriverGetVersion(self) -> Any:
        return 0, self.version


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Driver], None]]:
    """Puts a driver in the place of this machine's, which nvidia-smi does not know."""
    pytest.importorskip("cuda.bindings.driver")
    asked = (host._cuda_device, host.gpu_count)

    def put(it: Driver) -> None:
        monkeypatch.setattr(cuda_driver, "_driver", lambda: it)
        monkeypatch.setattr("cuda.bindings.driver", it)

    monkeypatch.setattr(host, "nvidia_gpus", lambda: [])
    for one in asked:
        one.cache_clear()
    yield put
    for one in asked:
        one.cache_clear()


def test_gpus_as_cuda_numbers_them(driver: Callable[[Driver], None]) -> None:
    driver(Driver("RTX 4090", "RTX A6000"))
    assert host.gpu_count() == 2
    assert host.cuda_gpu(1) == Gpu("RTX A6000", "CUDA 13.0", "24564 MiB", "8.9")
    assert host.why_no_gpu(1) == "" and host.cuda_gpu(2) is None
    assert host.why_no_gpu(2) == "there is no cuda:2, CUDA shows 2"
    host.check_gpu("cuda:1")
    host.check_gpu("cuda")
    with pytest.raises(StreamDiffVSRError, match=r"there is no cuda:2, CUDA shows 2; use another"):
        host.check_gpu("cuda:2")


@pytest.mark.parametrize(
    ("it", "told"),
    [
        (Driver(error=100), "shows CUDA no GPU (CUDA_VISIBLE_DEVICES is '')"),
        (Driver(), "shows CUDA no GPU (CUDA_VISIBLE_DEVICES is '')"),
        (Driver(error=3), "CUDA refuses to start: system not yet initialized (3)"),
    ],
)
def test_why_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, driver: Callable[[Driver], None], it: Driver, told: str
) -> None:
    driver(it)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert told in host.why_no_gpu()
    assert host.cuda_gpu() is None and host.gpu_count() == 0


def test_without_a_driver_or_its_package(
    monkeypatch: pytest.MonkeyPatch, driver: Callable[[Driver], None]
) -> None:
    def absent() -> Any:
        raise ModuleNotFoundError("No module named 'cuda'")

    monkeypatch.setattr(cuda_driver, "_driver", absent)
    assert host.why_no_gpu() == "no NVIDIA driver answers" and host.gpu_count() == 0
    host._cuda_device.cache_clear()
    monkeypatch.setattr(host, "nvidia_gpus", lambda: [ADA])
    assert "RTX 4090, but cuda-bindings does not load (ModuleNotFound" in host.why_no_gpu()


def test_fp8_is_of_the_backends_that_have_it(machine: Machine) -> None:
    with pytest.raises(StreamDiffVSRError, match=r"it has no fp8.*use precision='fp16'") as caught:
        choose(precision="fp8")
    assert "onnxruntime (cpu)" in str(caught.value) and "\n" not in str(caught.value)
    machine.gpu = ADA
    chosen = choose(precision="fp8")
    assert (chosen.backend, chosen.precision, chosen.device) == ("tensorrt-rtx", "fp8", "cuda")
    machine.installed.remove("tensorrt_rtx")
    with pytest.raises(StreamDiffVSRError, match=r"tensorrt-rtx \(cuda\): .*has no fp8"):
        choose(precision="fp8")
