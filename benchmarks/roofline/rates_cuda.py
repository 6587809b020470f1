"""Measures the rates of a GPU by its own events. The tests do not run it, as they have no GPU.

The product is torch's if torch has CUDA, else an engine of one operator by the first backend that
works here. fp32 is exact, without TF32, as in the engines. The copy is the CUDA runtime's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...engines.cuda_device import CudaDevice, CudaStream
from ...engines.host import current_gpu, why_no_gpu
from ...engines.manifest import EngineKey
from ...engines.registry import BACKENDS, Backend
from ...errors import StreamDiffVSRError
from ...graphs.spec import FLOAT, GRAPH_VERSION, Precision
from .limits import Sample, product_arrays, product_spec, sample, write_product

SIDE = {"fp32": 4096, "fp16": 8192}
COPY_BYTES = 2**30  # many times any cache
REPETITIONS, WARM_UP = 20, 3
BUILT_FROM_ONNX = ("tensorrt", "tensorrt-rtx", "onnxruntime")


def matrix_rate(precision: Precision, ordinal: int = 0) -> Sample | str:
    """Returns the GFLOP/s of a square matrix product, or why it could not be measured."""
    if reason := why_no_gpu(ordinal):
        return f"no matrix rate: {reason}"
    side, reasons = SIDE[precision], []
    ways = {"torch": _torch_times}
    ways |= {name: partial(_engine_times, BACKENDS[name]) for name in BUILT_FROM_ONNX}
    for name, times in ways.items():
        try:
            measured = times(side, precision, ordinal)
        except Exception as error:  # each library fails in its own way if it is missing or broken
            reasons.append(f"{name}: {error}")
            continue
        how = f"matrix product {side}x{side} {precision} by {name} on the GPU"
        return sample(measured, 2e-9 * side**3, how)
    return f"no matrix rate: {'; '.join(reasons)}"


def copy_rate(ordinal: int = 0) -> Sample | str:
    """Returns the GB/s of a copy within a GPU's memory, or why it could not be measured."""
    if reason := why_no_gpu(ordinal):
        return f"no copy bandwidth: {reason}"
    try:
        device = CudaDevice(ordinal)
        source, target = (device.empty((COPY_BYTES,), "uint8") for _ in range(2))
        stream = device.stream("rates")
        times = _times(device, stream, lambda: device.copy(target, source, stream))
    except StreamDiffVSRError as error:
        return f"no copy bandwidth: {error}"
    how = f"copy of {COPY_BYTES // 2**20} MiB on the GPU, read and written"
    return sample(times, 2e-9 * COPY_BYTES, how)


def _torch_times(side: int, precision: Precision, ordinal: int) -> list[float]:
    if find_spec("torch") is None:
        raise ImportError("not installed")
    torch: Any = import_module("torch")
    from ...engines.torch_backend import exact_kernels

    if not torch.cuda.is_available():
        raise RuntimeError("it has no CUDA here")
    with torch.cuda.device(ordinal), exact_kernels(), torch.inference_mode():
        a = torch.randn(side, side, device="cuda").to(getattr(torch, FLOAT[precision]))
        product = torch.empty_like(a)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(REPETITIONS + 1)]
        for _ in range(WARM_UP):
            torch.mm(a, a, out=product)
        marks[0].record()
        for mark in marks[1:]:
            torch.mm(a, a, out=product)
            mark.record()
        torch.cuda.synchronize()
    return [1e-3 * start.elapsed_time(end) for start, end in pairwise(marks)]


def _engine_times(backend: Backend, side: int, precision: Precision, ordinal: int) -> list[float]:
    """Returns the seconds of each run of an engine of one product, built as engines are."""
    if find_spec(backend.module) is None:
        raise ImportError("not installed")
    place, spec = f"cuda:{ordinal}", product_spec(side, precision)
    key = _key(backend, precision, place)
    if obstacle := backend.obstacle(key, place):
        raise StreamDiffVSRError(obstacle)
    with tempfile.TemporaryDirectory() as folder:
        write_product(Path(folder), side, precision)
        if backend.compile is not None:
            with current_gpu(place):
                backend.compile(Path(folder), spec, key, None, lambda fraction: None)
        engine, device = backend.open(Path(folder), spec, place, None), CudaDevice(ordinal)
        buffers = {}
        for name, array in product_arrays(side, precision).items():
            buffers[name] = device.empty(array.shape, array.dtype.name)
            device.copy(buffers[name], array)
        bound, stream = engine.bind(buffers), device.stream("rates")
        return _times(device, stream, lambda: bound.enqueue(stream))


def _key(backend: Backend, precision: Precision, device: str) -> EngineKey:
    """Returns a key with all that a backend reads, for an engine that is not kept."""
    empty = EngineKey(
        model_digest="",
        size="",
        flow="",
        tile="",
        precision=precision,
        steps=1,
        backend=backend.name,
        device="cuda",
        library="",
        gpu="",
        graph_version=GRAPH_VERSION,
    )
    target = backend.target(None, precision, device)
    return replace(empty, library=target.library, gpu=target.gpu)


def _times(device: CudaDevice, stream: CudaStream, work: Callable[[], object]) -> list[float]:
    """Returns the seconds of each run on a stream, by its marks."""
    for _ in range(WARM_UP):
        work()
    marks = [device.mark(stream)]
    for _ in range(REPETITIONS):
        work()
        marks.append(device.mark(stream))
    end = device.event()
    stream.record(end)
    end.synchronize()
    return [1e-3 * later.ms_after(earlier) for earlier, later in pairwise(marks)]
