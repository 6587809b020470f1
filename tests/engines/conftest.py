"""A made-up machine for compiled engines: plans of a few bytes, a GPU if a test wants one.

Where a GPU is needed, ONNX Runtime runs in its place.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import streamdiffvsr
from streamdiffvsr.building import builder, spec
from streamdiffvsr.building.spec import BuildSpec
from streamdiffvsr.engines import engine_set, registry, tensorrt_backend, trust
from streamdiffvsr.engines.host import Gpu
from streamdiffvsr.engines.onnxruntime_backend import OrtEngine
from streamdiffvsr.engines.parity import check_parity, run_on_host
from streamdiffvsr.engines.tensorrt_library import TrtLibrary
from streamdiffvsr.graphs.spec import GraphSpec, onnx_file
from streamdiffvsr.tests.engines.graphs import make_graph_folder

VERSION = "1.7.1.116"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shared key, and a cache of the test's own."""
    for name in trust.KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def new_user(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, and no key that has signed anything yet."""
    monkeypatch.setenv("STREAMDIFFVSR_STATE", str(tmp_path / "state"))


class RtxConfig:
    """The attributes that only TensorRT-RTX's builder config has."""

    num_compute_capabilities = 0
    builder_optimization_level = 3


@dataclass
class Machine:
    """The machine that the backend finds, and a record of what it was asked to do.

    Attributes:
        gpu: The only one, or the second where `first` is there too.
        places: The devices that engines were opened for.
        current: The devices that plans were built on.
    """

    gpu: Gpu | None = None
    first: Gpu | None = None
    version: str = VERSION
    opened: list[str] = field(default_factory=list)
    places: set[str] = field(default_factory=set)
    current: set[str] = field(default_factory=set)
    gated: list[str] = field(default_factory=list)

    def gpu_at(self, ordinal: int) -> Gpu | None:
        """By its number, as CUDA has it."""
        gpus = [gpu for gpu in (self.first, self.gpu) if gpu is not None]
        return gpus[ordinal] if ordinal < len(gpus) else None

    @contextlib.contextmanager
    def made_current(self, device: str) -> Iterator[None]:
        """In place of a GPU's context."""
        self.current.add(device)
        yield

    def missing(self, kind: str) -> str:
        """Returns the obstacle to running engines as they are, or ""."""
        return "" if self.gpu or kind == "cpu" else "no NVIDIA driver answers"


@pytest.fixture(scope="session")
def graphs(parity_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded model's graphs, as an export leaves them."""
    return make_graph_folder(parity_engines, tmp_path_factory.mktemp("graphs") / "parity")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, graphs: Path, parity_engines: Path) -> Machine:
    """TensorRT-RTX in which a plan is a file of a few bytes, and no export takes place."""
    it = Machine()
    capability = type("ComputeCapability", (), {f"SM{c}": c for c in (75, 80, 86, 89, 120, 121)})
    fake: Any = type("module", (), {"IBuilderConfig": RtxConfig, "ComputeCapability": capability})

    def compile(folder: Path, spec: GraphSpec, *_: object) -> None:
        (folder / onnx_file(spec.name)).unlink()
        (folder / tensorrt_backend.plan_file(spec.name)).write_bytes(
            f"plan of {spec.name}".encode()
        )

    def open_plan(folder: Path, spec: GraphSpec, device: str, scratch: None) -> OrtEngine:
        plan = (folder / tensorrt_backend.plan_file(spec.name)).read_bytes()
        assert plan == f"plan of {spec.name}".encode(), "a plan that nobody built was loaded"
        it.opened.append(spec.name)
        it.places.add(device)
        return OrtEngine(parity_engines / onnx_file(spec.name), spec)

    def gated(engine: Any, *arguments: Any) -> Any:
        it.gated.append(engine.describe().name)
        return check_parity(engine, *arguments)

    def carry_out(order: BuildSpec, progress: Any) -> None:
        shutil.copytree(graphs, order.stage, dirs_exist_ok=True)
        keywords = {"package_version": "0", "started": order.started, "progress": progress}
        keywords["device"] = order.device
        engine_set.accept_graphs(order.stage, order.key, order.model_name, **keywords)

    rtx = replace(
        registry.BACKENDS["tensorrt-rtx"],
        module="json",  # which is installed everywhere
        compile=compile,
        open=open_plan,
        scratch=None,
    )
    monkeypatch.setattr(registry, "_run_on_gpu", lambda device, *rest: run_on_host(*rest))
    ort = replace(
        registry.BACKENDS["onnxruntime"],
        open=lambda folder, spec, device, scratch: OrtEngine(folder / onnx_file(spec.name), spec),
        obstacle=lambda key, device: it.missing(key.device),
    )
    monkeypatch.setitem(registry.BACKENDS, "onnxruntime", ort)
    monkeypatch.setitem(registry.BACKENDS, "tensorrt-rtx", rtx)
    monkeypatch.setattr(
        tensorrt_backend, "load_library", lambda name: TrtLibrary(fake, "TensorRT-RTX", it.version)
    )
    monkeypatch.setattr(tensorrt_backend, "cuda_gpu", it.gpu_at)
    monkeypatch.setattr(engine_set, "cuda_gpu", it.gpu_at)
    monkeypatch.setattr(engine_set, "check_parity", gated)
    monkeypatch.setattr(engine_set, "current_gpu", it.made_current)
    monkeypatch.setattr(spec, "check_gpu", lambda device: None)
    monkeypatch.setattr(builder, "execute_in_child", carry_out)
    return it


@pytest.fixture
def build(machine: Machine, parity_model: Path, tmp_path: Path) -> Any:
    """Builds the set; returns the folder and the lines that were reported."""

    def run(**change: Any) -> tuple[Path, list[str]]:
        said: list[str] = []
        options = {"size": (48, 64), "backend": "tensorrt-rtx", "device": "cuda"} | change
        folder = streamdiffvsr.build(
            parity_model, out=tmp_path / "set", progress=said.append, **options
        )
        return folder, said

    return run
