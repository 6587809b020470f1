"""Runs graphs with ONNX Runtime, on the CPU or with its CUDA provider."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StreamDiffVSRError, UsageError, option
from ..graphs.arrays import Array
from ..graphs.spec import GraphSpec, onnx_file
from . import host
from .cuda_device import CudaEvent, CudaStream
from .cuda_driver import LESS_MEMORY, Context, capture_lock, driver_call, primary_context
from .host import dotted, why_no_gpu
from .interface import (
    Bound,
    Buffer,
    DeviceArray,
    HostBound,
    Stream,
    check_buffers,
    kind_of,
    ordinal_of,
)
from .manifest import EngineKey

# The first release that keeps the host memory which a captured copy reads at every launch
# (microsoft/onnxruntime PR 32121): before it, a captured Concat reads freed addresses.
FIRST_CAPTURED = (1, 30)


class SessionStream:
    """The stream of one session, and the two events that connect it to another stream."""

    def __init__(self, context: Context) -> None:
        self.context, self.stream = context, CudaStream(context)
        self._before, self._after = CudaEvent(context), CudaEvent(context)

    def begin(self, stream: Stream) -> None:
        """Makes the session wait for what is already on a stream."""
        stream.record(self._before)
        self.stream.wait(self._before)

    def end(self, stream: Stream) -> None:
        """Makes later work on the stream wait for the session."""
        self.stream.record(self._after)
        stream.wait(self._after)


@dataclass(frozen=True, slots=True)
class BoundOnDevice:
    """A session with its buffers in the GPU's memory.

    Attributes:
        uncaptured: Why this release must not be captured, or an empty string.
    """

    session: Any
    binding: Any
    options: Any
    own: SessionStream
    buffers: tuple[Buffer, ...]  # kept alive: the binding has only their addresses
    uncaptured: str = ""

    def why_not_captured(self, stream: Stream) -> str:
        """See `Bound`."""
        return self.uncaptured

    def enqueue(self, stream: Stream | None = None) -> None:
        """See `Bound`."""
        if stream is not None:
            self.own.begin(stream)
        try:
            with self.own.context.current():
                self.session.run_with_iobinding(self.binding, self.options)
        except StreamDiffVSRError:
            raise
        except Exception as error:  # the binding's exceptions share no base class
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise StreamDiffVSRError(
                "an engine does not run on the GPU", reason, LESS_MEMORY
            ) from error
        if stream is None:
            self.own.stream.synchronize()
        else:
            self.own.end(stream)


def bind_on_device(
    session: Any, own: SessionStream, spec: GraphSpec, buffers: Mapping[str, Buffer]
) -> BoundOnDevice:
    """Returns a session on device buffers, one for every tensor, which the caller has checked."""
    import onnxruntime as ort

    binding = session.io_binding()
    inputs = {t.name for t in spec.inputs}
    for name, buffer in buffers.items():
        if not isinstance(buffer, DeviceArray):
            raise ValueError(f"{spec.name}.{name} needs a buffer on the device")
        put = binding.bind_input if name in inputs else binding.bind_output
        shape = list(buffer.shape)
        put(name, "cuda", own.context.ordinal, buffer.dtype.type, shape, buffer.address)
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    kept = tuple(buffers.values())
    return BoundOnDevice(session, binding, options, own, kept, why_uncaptured(ort.__version__))


def why_uncaptured(version: str) -> str:
    """Returns why sessions of a release must not be captured, or an empty string."""
    major, minor, *_ = (*version.split("."), "0")
    if (int(major), int(minor)) >= FIRST_CAPTURED:
        return ""
    first = ".".join(str(part) for part in FIRST_CAPTURED)
    return f"ONNX Runtime {version} cannot be captured safely; {first} can"


@cache
def find_cuda_libraries() -> str:
    """Loads the CUDA libraries that pip or torch installed, from where the provider will look.

    Returns what ONNX Runtime says about those that it does not find. It prints that to stdout,
    which may be a program's JSON.
    """
    import onnxruntime as ort

    with contextlib.redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls()
    return said.getvalue()


PROVIDER = "CUDAExecutionProvider"
WINDOWS = sys.platform == "win32"
SHARED, CUDA, CUDNN = (
    ("onnxruntime_providers_shared.dll", "onnxruntime_providers_cuda.dll", "cudnn64_9.dll")
    if WINDOWS
    else ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so", "libcudnn.so.9")
)
INSTALL = "pip install 'streamdiffvsr[cuda]'"
# The loader's message on Linux. On Windows it names no library; ONNX Runtime's own search does.
NOT_FOUND = re.compile(r"([^\s:/\\]+): cannot open shared object file")
NOT_PRELOADED = re.compile(r"^Failed to load ([^\s:/\\]+): ", re.MULTILINE)


@cache
def why_no_cuda_provider() -> str:
    """Returns why the installed ONNX Runtime's CUDA provider cannot be used, or an empty string.

    Whether there is a GPU is for `why_no_gpu` to say, which is called first. Never raises.
    """
    try:
        import onnxruntime

        if PROVIDER not in onnxruntime.get_available_providers():
            return f"this build of it has no {PROVIDER}"
        return _why_too_new(onnxruntime) or _why_not_loaded(onnxruntime)
    except StreamDiffVSRError as error:  # no driver to ask
        return error.why or error.what
    except Exception as error:  # a library for another platform raises anything
        return f"it does not load ({type(error).__name__})"


def unavailable(device: str) -> str:
    """Returns why the installed ONNX Runtime cannot be used on a device, or an empty string."""
    if kind_of(device) == "cuda":
        return why_no_cuda_provider()
    try:
        import onnxruntime

        offered = onnxruntime.get_available_providers()
    except Exception as error:  # a library for another platform raises anything
        return f"it does not load ({type(error).__name__})"
    provider = "CPUExecutionProvider"
    return "" if provider in offered else f"this build of it has no {provider}"


def obstacle(key: EngineKey, device: str) -> str:
    """Returns why engines of this key cannot run on a device of this machine, or ""."""
    if key.device == "cpu":
        return ""
    return why_no_gpu(ordinal_of(device)) or why_no_cuda_provider()


def open_engine(folder: Path, spec: GraphSpec, device: str, scratch: object) -> OrtEngine:
    """Opens a graph's exported file; each session has scratch memory of its own."""
    return OrtEngine(folder / onnx_file(spec.name), spec, device)


def details(version: str) -> str:
    """Returns the version and the execution providers.

    Raises:
        StreamDiffVSRError: The library does not load.
    """
    providers = host.onnxruntime_providers()
    if not providers:
        raise StreamDiffVSRError(f"{version} cannot be loaded", remedy=reinstall())
    short = ", ".join(p.removesuffix("ExecutionProvider") for p in providers)
    return f"{version}, providers {short}"


def repair() -> str:
    """Returns what to do if it does not work on a GPU: nothing if it has the provider."""
    return "" if PROVIDER in host.onnxruntime_providers() else reinstall()


def reinstall() -> str:
    """Returns the command that installs the one of its two packages that suits this machine."""
    extra = "cuda" if host.nvidia_gpus() else "cpu"
    uninstall = "pip uninstall -y onnxruntime onnxruntime-gpu"
    return f"{uninstall} && pip install 'streamdiffvsr[{extra}]'"


def _why_too_new(onnxruntime: Any) -> str:
    """Returns why the driver is too old for the provider's CUDA, or an empty string.

    A driver runs what was built for an older CUDA, or for another minor version of its own.
    """
    built = str(getattr(onnxruntime, "cuda_version", "") or "")
    major = built.partition(".")[0]
    if not major.isdecimal():
        return ""
    driver = int(driver_call("cuDriverGetVersion"))
    if int(major) <= driver // 1000:
        return ""
    return (
        f"it is built for CUDA {built} and the driver is for CUDA {dotted(driver)}; update the "
        f"driver, or install a release of onnxruntime-gpu for CUDA {driver // 1000}"
    )


def _why_not_loaded(onnxruntime: Any) -> str:
    """Loads what a session will load, in the same order; returns why that fails, or ""."""
    said, folder = find_cuda_libraries(), Path(onnxruntime.__file__).parent / "capi"
    if not (folder / CUDA).is_file():
        return ""  # built in, or somewhere else: a session will find it or say so
    try:
        shared = ctypes.CDLL(str(folder / SHARED), mode=ctypes.RTLD_GLOBAL)
        shared.Provider_GetHost.restype = ctypes.c_void_p
        # Set by `import onnxruntime`. Without it, loading the provider's library ends the process.
        if shared.Provider_GetHost():
            ctypes.CDLL(str(folder / CUDA))
        ctypes.CDLL(CUDNN)  # for convolutions; newer providers load without it
    except OSError as error:
        why = " ".join(str(error).split()).replace(str(folder), "").lstrip("/\\")
        missing = NOT_FOUND.match(why) or NOT_PRELOADED.search(said)
        what = f"{missing[1]} is missing" if missing else f"its CUDA provider does not load: {why}"
        return f"{what}: run {INSTALL}" if missing else what
    return ""


THREADS = "STREAMDIFFVSR_THREADS"
SEE_DOCTOR = f"see streamdiffvsr doctor, or use another {option('backend')}"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# TF32 would change fp32 results by 1e-3: fp32 means fp32.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {
    "cpu": {},
    "cuda": {
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
        # Not by timing, the default: two runs could choose different kernels and differ in output.
        "cudnn_conv_algo_search": "HEURISTIC",
    },
}


@cache
def _share_one_arena() -> None:
    """Makes one CPU arena for all sessions of this process.

    The graphs run one after another, so they can share scratch memory. The arena grows by what is
    requested: by default it doubles, and takes twice the peak.
    """
    import onnxruntime as ort

    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    same_as_requested = {"max_mem": 0, "arena_extend_strategy": 1}
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(same_as_requested))


# Of the sessions that are opened in this context; None: as many as there are CPUs.
session_threads: ContextVar[int | None] = ContextVar("session_threads", default=None)


def usable_cpus() -> int:
    """Returns the CPUs for engines: STREAMDIFFVSR_THREADS, or all that this process may use.

    Raises:
        UsageError: The variable is not a number of threads.
    """
    asked = os.environ.get(THREADS, "")
    if asked:
        if not asked.isdecimal() or int(asked) < 1:
            raise UsageError(f"{THREADS}={asked!r:.40} is not a number of threads")
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _options(kind: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors arrive as exceptions
    if kind == "cuda":
        return options
    options.intra_op_num_threads = session_threads.get() or usable_cpus()
    # Sessions that plan one block each, every one a little larger than the last, would never share
    # the arena: 491 MB instead of 348 for the recorded model at 128x96, and no faster.
    options.enable_mem_pattern = False
    # Buffers that are planned for reuse live from a shape's first use to its last; the arena frees
    # them as soon as they are read. RAFT-large's flow of a 1280x720 input: 4.5 GiB, not 9.
    options.enable_mem_reuse = False
    # The graphs are hundreds of small operations: waking a thread for each takes a fifth of the
    # time. Threads spin while their graph runs, and only then: seven sessions and the processes
    # next to them share the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


class OrtEngine:
    """One graph in an ONNX Runtime session."""

    def __init__(self, path: Path, spec: GraphSpec, device: str = "cpu") -> None:
        """Loads `path` for `device`: "cpu", "cuda", "cuda:1".

        Raises:
            StreamDiffVSRError: The provider is not there, or the graph is not the spec's.
        """
        import onnxruntime as ort

        kind = kind_of(device)
        provider = PROVIDERS[kind]
        if provider not in ort.get_available_providers():
            raise StreamDiffVSRError(
                f"ONNX Runtime has no {provider}",
                f"it offers {', '.join(ort.get_available_providers())}",
                "pip uninstall onnxruntime onnxruntime-gpu, then install streamdiffvsr[cuda]",
            )
        if kind == "cuda" and (obstacle := why_no_cuda_provider()):
            raise StreamDiffVSRError("ONNX Runtime cannot use the GPU", obstacle, SEE_DOCTOR)
        options = dict(PROVIDER_OPTIONS[kind])
        own: SessionStream | None = None
        if kind == "cuda":
            own = SessionStream(primary_context(ordinal_of(device)))
            options["device_id"] = str(own.context.ordinal)
            options["user_compute_stream"] = str(own.stream.handle)
        else:
            _share_one_arena()
        # A session makes its GPU current in the thread and leaves it so. With its fallback it would
        # print why a GPU is refused, and continue on the CPU.
        place = contextlib.nullcontext() if own is None else own.context.current()
        fallback = {} if own is None else {"enable_fallback": 0}
        try:
            with capture_lock, place:
                session = ort.InferenceSession(
                    str(path), _options(kind), providers=[(provider, options)], **fallback
                )
        except Exception as error:  # the binding's exceptions share no base class
            raise StreamDiffVSRError(
                f"ONNX Runtime cannot load {path.name}",
                " ".join(str(error).split()),
                "rebuild the engines" if own is None else LESS_MEMORY,
            ) from error
        if session.get_providers()[0] != provider:
            raise StreamDiffVSRError(
                f"ONNX Runtime fell back from {provider} to {session.get_providers()[0]}",
                "the provider did not start",
                SEE_DOCTOR,
            )
        # In this order: a session may still use its stream while it is destroyed.
        self._spec, self._session, self._own = spec, session, own
        self._check_names()

    def _check_names(self) -> None:
        found = {i.name: tuple(i.shape) for i in self._session.get_inputs()}
        found |= {o.name: tuple(o.shape) for o in self._session.get_outputs()}
        wanted = {t.name: t.shape for t in (*self._spec.inputs, *self._spec.outputs)}
        if found != wanted:
            wrong = sorted(k for k in found.keys() | wanted if found.get(k) != wanted.get(k))
            raise StreamDiffVSRError(
                f"{onnx_file(self._spec.name)} is not the graph that its manifest describes",
                f"it differs in {', '.join(wrong)}",
                "rebuild the engines",
            )

    def describe(self) -> GraphSpec:
        """Returns the names, shapes and dtypes of the inputs and outputs."""
        return self._spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """Returns the session on these buffers, which are kept alive as long as the result is.

        The buffers are numpy arrays on the CPU, and device arrays on CUDA.
        """
        check_buffers(self._spec, buffers)
        if self._own is not None:
            return bind_on_device(self._session, self._own, self._spec, buffers)
        binding = self._session.io_binding()
        inputs = {t.name for t in self._spec.inputs}
        for name, buffer in buffers.items():
            if not isinstance(buffer, np.ndarray):
                raise ValueError(f"{self._spec.name}.{name} needs a buffer in host memory")
            put = binding.bind_input if name in inputs else binding.bind_output
            put(name, "cpu", 0, buffer.dtype.type, list(buffer.shape), buffer.ctypes.data)
        return HostBound(partial(_run, self._session, binding, tuple(buffers.values())))


def _run(session: Any, binding: Any, buffers: tuple[Buffer, ...]) -> None:
    """Runs once; the binding has only addresses, so `buffers` keeps the buffers alive."""
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()


def open_symbolic(path: Path) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Opens a graph with symbolic sizes on the CPU; the result runs it, by names of tensors.

    Raises:
        StreamDiffVSRError: ONNX Runtime cannot load it.
    """
    import onnxruntime as ort

    _share_one_arena()
    options = _options("cpu")
    # It runs once or twice: what most optimizations take is more than they save.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        session = ort.InferenceSession(str(path), options, providers=[PROVIDERS["cpu"]])
    except Exception as error:  # the binding's exceptions share no base class
        reason = " ".join(str(error).split())
        raise StreamDiffVSRError(f"ONNX Runtime cannot load {path.name}", reason) from error
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))
