"""The ONNX Runtime backend: the exported graph as it is, on the CPU or the CUDA provider.

Inputs and outputs are bound to the caller's buffers, in the memory of the provider's device, so
nothing is copied and nothing allocated for them. A provider that is asked for is used or refused,
never silently replaced.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StreamDiffVSRError, UsageError
from ..graph_set import onnx_file
from ..spec import GraphSpec
from .cuda_driver import LESS_MEMORY, capture_lock, primary_context
from .device import kind_of, ordinal_of
from .ort_cuda import SessionStream, bind_on_device
from .ort_provider import why_no_cuda_provider
from .protocol import Bound, Buffer, HostBound, check_buffers

THREADS = "STREAMDIFFVSR_THREADS"
SEE_DOCTOR = "see streamdiffvsr doctor, or use another --backend"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# TF32 would move fp32 results by 1e-3: fp32 means fp32.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {
    "cpu": {},
    "cuda": {
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
        # Not by timing, as it would: two runs could choose other kernels, and make other frames.
        "cudnn_conv_algo_search": "HEURISTIC",
    },
}


@cache
def _share_one_arena() -> None:
    """One CPU arena for the sessions of this process.

    The graphs run one after another, so their scratch memory can be the same. Grown by what is
    asked for: the default doubles, and holds twice the peak.
    """
    import onnxruntime as ort

    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    same_as_requested = {"max_mem": 0, "arena_extend_strategy": 1}
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(same_as_requested))


def usable_cpus() -> int:
    """CPUs for engines: all that this process may run on, or as many as STREAMDIFFVSR_THREADS says.

    Raises:
        UsageError: The variable is no number of threads.
    """
    asked = os.environ.get(THREADS, "")
    if asked:
        if not asked.isdecimal() or int(asked) < 1:
            raise UsageError(f"{THREADS}={asked!r:.40} is no number of threads")
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
    options.intra_op_num_threads = usable_cpus()
    # A planned block per session, each a little larger than the last, would never share the arena:
    # 491 MB instead of 348 for the recorded model at 128x96, and no faster.
    options.enable_mem_pattern = False
    # Buffers that are planned for reuse live from a shape's first use to its last: the arena gives
    # them back as soon as they are read. RAFT-large's flow of a 1280x720 input: 4.5 GiB, not 9.
    options.enable_mem_reuse = False
    # The graphs are hundreds of small operations: waking a thread for each takes a fifth of the
    # time. Threads wait busily while their graph runs, and only then: seven sessions and the
    # processes beside them share the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


class OrtEngine:
    """One graph in an ONNX Runtime session."""

    def __init__(self, path: Path, spec: GraphSpec, device: str = "cpu") -> None:
        """Load `path` for `device`: "cpu", "cuda", "cuda:1".

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
        # It makes its GPU the thread's own and leaves it so; and with its fallback it would print
        # why a GPU is refused, and go on with the CPU.
        place = contextlib.nullcontext() if own is None else own.context.current()
        fallback = {} if own is None else {"enable_fallback": 0}
        try:
            with capture_lock, place:
                session = ort.InferenceSession(
                    str(path), _options(kind), providers=[(provider, options)], **fallback
                )
        except Exception as error:  # the binding raises its own untyped kinds
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
        # In this order: a session that goes away may still ask for its stream.
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
        """Names, shapes and dtypes of the inputs and outputs."""
        return self._spec

    def bind(self, buffers: Mapping[str, Buffer]) -> Bound:
        """The session on these buffers; they are kept alive as long as the result is.

        On the CPU they are numpy arrays, on CUDA device arrays.
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
    """Run once; the binding holds addresses alone, so the buffers are kept by the call."""
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
