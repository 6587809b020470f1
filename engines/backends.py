"""The table of backends: a new one is a module that runs graphs, and a row here.

A package outside this one adds its row with `register`, or names it in the entry-point group
`streamdiffvsr_backends`, which child processes read too. Reading the table loads no library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, option, without
from .plugins import plugins

if TYPE_CHECKING:
    from ..graphs.spec import GraphSpec
    from .interface import Engine
    from .manifest import EngineKey, Target
    from .tensorrt_engine import Scratch

FLOATS = ("fp32", "fp16")
FP8 = "fp8"
GROUP = "streamdiffvsr_backends"
Fraction = Callable[[float], None]


def _later(module: str, name: str, *first: str) -> Callable[..., Any]:
    """Returns a function of a module that is imported at its first call, with first arguments."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        return getattr(import_module(module, __package__), name)(*first, *arguments, **keywords)

    return call


def _no_target(capabilities: tuple[int, ...] | None, precision: str, device: str) -> Target:
    from .manifest import Target

    if capabilities is not None:
        raise UsageError(
            f"a list of compute capabilities is only for {option('backend', 'tensorrt-rtx')}",
            "other backends run on any GPU that is there",
        )
    return Target()


def _torch_target(capabilities: tuple[int, ...] | None, precision: str, device: str) -> Target:
    from dataclasses import replace

    from .torch_backend import torch_version

    return replace(_no_target(capabilities, precision, device), library=torch_version())


def _no_level(asked: int | None) -> None:
    if asked is not None:
        both = option("backend", "tensorrt", "tensorrt-rtx", between="and")
        raise UsageError(
            f"optimization levels are only for {both}",
            "other backends run graphs as they are exported",
            f"{without('optimization_level')}, or name one of those backends",
        )


_onnx_file = _later("..graphs.spec", "onnx_file")


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run a graph.

    Attributes:
        module: The module that must be importable.
        packages: Distributions that provide it, any one of which may be installed.
        extras: The extras of this package that install it, the first for a CPU and the last for a
            GPU, each with what pip installs in a Python without this package.
        devices: The kinds of device it runs on.
        rank: Its place when the best one is chosen, on each kind of device: a lower one is better.
        open: (engine folder, graph, device, scratch memory to share or None) -> engine.
        unavailable: device -> why the installed library cannot be used there, or an empty string.
            A GPU that is not there is not its concern.
        compile: Replaces a graph's ONNX file by its engine: (folder, graph, key, scratch memory in
            bytes or None, progress as a fraction); None if the exported file itself is run.
        target: (compute capabilities or None for the usual, precision, device) -> what its engines
            depend on there.
        level: (requested optimization level or None) -> the level to build engines at, None for the
            library's own.
        obstacle: (key, device) -> why such engines cannot run there, or an empty string.
        library: The version of its library as a key has it; None if engines depend on none.
        scratch: device -> memory that the engines of one lane share; None if each has its own.
        file: graph name -> the file of that graph in a set.
        precisions: The precisions that its engines can compute in.
        details: installed version -> what `doctor` shows; raises StreamDiffVSRError if the library
            does not load.
        repair: What to do if the installed library does not work on a GPU; may be empty.
        basic: Whether basic use needs it.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    extras: Mapping[str, str]
    devices: tuple[str, ...]
    rank: int
    open: Callable[[Path, GraphSpec, str, Scratch | None], Engine]
    unavailable: Callable[[str], str] = lambda device: ""
    compile: Callable[[Path, GraphSpec, EngineKey, int | None, Fraction], None] | None = None
    target: Callable[[tuple[int, ...] | None, str, str], Target] = _no_target
    level: Callable[[int | None], int | None] = _no_level
    obstacle: Callable[[EngineKey, str], str] = lambda key, device: ""
    library: Callable[[], str] | None = None
    scratch: Callable[[str], Scratch] | None = None
    file: Callable[[str], str] = _onnx_file
    precisions: tuple[str, ...] = FLOATS
    details: Callable[[str], str] = str
    repair: Callable[[], str] = lambda: ""
    basic: bool = False

    def extra(self, *, gpu: bool = False) -> str:
        """Returns the extra of this package that installs it; empty if none does."""
        extras = [*self.extras] or [""]
        return extras[-1 if gpu else 0]


BACKENDS: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Adds a backend, or replaces the one of that name.

    It is known in this process. Engines are built in a child process unless `build` is called with
    `in_process=True`; for children, the command line and ComfyUI, name it in the entry-point group
    `streamdiffvsr_backends` of an installed package.
    """
    BACKENDS[backend.name] = backend


def order() -> tuple[tuple[str, str], ...]:
    """Returns (backend, kind of device) of every way to run, best first: GPUs before the CPU."""
    ranked = sorted(BACKENDS.values(), key=lambda backend: backend.rank)
    return tuple((b.name, kind) for kind in ("cuda", "cpu") for b in ranked if kind in b.devices)


def ranked_names() -> list[str]:
    """Returns the names of all backends, best first."""
    return sorted(BACKENDS, key=lambda name: BACKENDS[name].rank)


def _tensorrt(name: str, packages: tuple[str, ...], rank: int) -> Backend:
    module = ".tensorrt_backend"
    return Backend(
        name,
        module=name.replace("-", "_"),
        packages=packages,
        extras={name: f"{packages[0]} cuda-bindings"},
        devices=("cuda",),
        rank=rank,
        open=_later(module, "open_plan", name),
        unavailable=_later(module, "unavailable", name),
        compile=_later(module, "compile_graph"),
        target=_later(module, "target", name),
        level=_later(module, "optimization_level", name),
        obstacle=_later(module, "obstacle"),
        library=_later(module, "library_version", name),
        scratch=_later(module, "make_scratch"),
        file=_later(module, "plan_file"),
        precisions=(*FLOATS, FP8),
        details=_later(module, "details", name),
    )


register(
    Backend(
        "onnxruntime",
        module="onnxruntime",
        packages=("onnxruntime-gpu", "onnxruntime"),
        extras={
            "cpu": "onnxruntime",
            "cuda": '"onnxruntime-gpu[cuda,cudnn]" cuda-bindings',
        },
        devices=("cpu", "cuda"),
        rank=30,
        open=_later(".onnxruntime_backend", "open_engine"),
        unavailable=_later(".onnxruntime_backend", "unavailable"),
        obstacle=_later(".onnxruntime_backend", "obstacle"),
        details=_later(".onnxruntime_backend", "details"),
        repair=_later(".onnxruntime_backend", "repair"),
        basic=True,
    )
)
register(_tensorrt("tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), rank=10))
register(_tensorrt("tensorrt-rtx", ("tensorrt-rtx-cu13", "tensorrt-rtx"), rank=20))
register(
    Backend(
        "torch",
        module="torch",
        packages=("torch",),
        extras={"export": ""},
        devices=("cpu", "cuda"),
        rank=40,  # on a CPU it is slower than ONNX Runtime
        open=_later(".torch_backend", "open_engine"),
        unavailable=_later(".torch_backend", "unavailable"),
        target=_torch_target,
        obstacle=_later(".torch_backend", "torch_obstacle"),
        library=_later(".torch_backend", "torch_version"),
        file=_later("..graphs.program", "program_file"),
    )
)
for _plugin in plugins(GROUP):
    register(_plugin)
