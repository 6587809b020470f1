"""Builds engine sets: finds one that is up to date, or builds it in a child process."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from ..engines.cache import (
    in_cache,
    locked,
    refuse_foreign,
    remember_files,
    remembered_digest,
    staged,
    unshare,
)
from ..engines.manifest import EngineKey, read_manifest, verify_files
from ..engines.trust import KEY_VARIABLES, require_keys, trusted_manifest
from ..errors import StreamDiffVSRError, UsageError, option
from ..graphs.plan import Plan
from ..graphs.spec import DEFAULT_STEPS, Size, SizeRange
from ..runtime.processes.child import DEBUG, Child, ProcessEnded
from .graph_source import GraphSource
from .memory import check_memory
from .request import BuildRequest
from .spec import BuildSpec, Progress, execute, resolve

SMALLER = (
    f"use {option('tile')}, {option('flow_scale', 2)}, {option('precision', 'fp16')} "
    "or a smaller input, or free memory"
)


def execute_in_child(order: BuildSpec, progress: Progress) -> None:
    """Fills `order.stage` with a complete engine set, in a child process.

    Raises:
        StreamDiffVSRError: The build failed, or its process ended unexpectedly.
        MemoryError: The build ran out of memory.
    """
    failure = f"the build of {order.key.size} engines ended unexpectedly"
    child = Child(
        "building.builder_child",
        order.to_json(),
        failure=failure,
        deadline_s=None,
        blas_threads=True,
        keeps=KEY_VARIABLES,
    )
    try:
        while (message := child.receive()[0])["kind"] == "progress":
            progress(message["line"])
    except ProcessEnded as ended:
        raise StreamDiffVSRError(
            failure,
            f"{ending(ended.code)}{ended.last_words}",
            f"if memory was short, {SMALLER}; {DEBUG}=1 shows more",
        ) from ended
    finally:  # after Ctrl-C too: nothing in the child is worth waiting for
        child.close()
    if message["kind"] != "end":
        raise_again(message)


def raise_again(message: Mapping[str, Any]) -> NoReturn:
    """Raises the error, other than a `StreamDiffVSRError`, that a build's process has reported."""
    raise {"memory": MemoryError, "bug": RuntimeError}[message["kind"]](message["what"])


def ending(code: int) -> str:
    """Returns in words how a process has ended."""
    if code == -getattr(signal, "SIGKILL", 9):
        return "the system killed it, as it does when memory runs out"
    if code < 0:
        return f"it crashed with {signal.Signals(-code).name}"
    return f"it crashed with code {code if code < 2**16 else hex(code)}"


def build(
    model: str | Path,
    *,
    size: Size,
    backend: str = "onnxruntime",
    precision: str = "fp32",
    out: str | Path | None = None,
    steps: int = DEFAULT_STEPS,
    device: str = "cpu",
    flow_scale: int | None = None,
    correlation: str | None = None,
    tile: Size | str | None = "auto",
    revision: str | None = None,
    compute_capabilities: Sequence[int] | None = None,
    workspace_mib: int | None = None,
    optimization_level: int | None = None,
    color_match: str = "auto",
    profile: SizeRange | None = None,
    batch: int = 1,
    progress: Progress = lambda _: None,
    in_process: bool = False,
) -> Path:
    """Builds the engines of a model for one input size, or finds them already built.

    Args:
        model: `tiny`, the path of a model folder, or a Hugging Face repo id.
        size: LR size (h, w).
        backend: `onnxruntime`, `tensorrt`, `tensorrt-rtx` or `torch`.
        precision: "fp32", "fp16", or for TensorRT's backends "fp8": fp16 in which the denoiser's
            layers multiply in eight bits.
        out: Folder of the engine set; by default one in the user's cache, named after its key.
        steps: Number of denoising steps, 1 to 50; the released model is trained for 4.
        device: The device of the engines: "cpu", "cuda", or the GPU "cuda:1", which makes and
            checks them too.
        flow_scale: The flow is computed at HR divided by 1, 2 or 4; None: chosen by size.
        correlation: The flow's lookup, "all-pairs" or "on-demand"; None: chosen by size.
        tile: LR size (h, w) of the tiles, None for whole frames, or "auto".
        revision: Branch, tag or commit of the Hugging Face repo.
        compute_capabilities: The GPUs of `tensorrt-rtx` engines, 89 for 8.9.
        workspace_mib: The most scratch memory of a compiled layer, in MiB; None is the library's
            choice.
        optimization_level: How long TensorRT looks for faster engines, 0 to 5; None is its own
            choice, 3.
        color_match: "on": the output takes over the input's broad colours by back-projection
            in `decode`; "off": it has the model's colours; "auto": as the model's config says.
        profile: The range of sizes that TensorRT engines take; None is `size` alone.
        batch: How many tiles the engines take at once, 1, 2 or 4; more than one only for a GPU, at
            a square size. `streamdiffvsr.load` opens no such set: it takes frames one by one.
        progress: Called with one line whenever a step begins.
        in_process: Whether to build in this process, not in a child that may crash alone.

    Returns:
        The engine set's folder, for `streamdiffvsr.load`.

    Raises:
        StreamDiffVSRError: One line: what could not be done, why, what to do.
    """
    request = BuildRequest(
        model=str(model),
        backend=backend,
        precision=precision,
        device=device,
        steps=steps,
        flow_scale=flow_scale,
        correlation=correlation,
        tile=tile,
        revision=revision,
        color_match=color_match,
        compute_capabilities=None if compute_capabilities is None else tuple(compute_capabilities),
        workspace_mib=workspace_mib,
        optimization_level=optimization_level,
        profile=profile,
        batch=batch,
    )
    return build_set(request, size, out=out, progress=progress, in_process=in_process)


def build_set(
    request: BuildRequest,
    size: Size,
    *,
    out: str | Path | None = None,
    progress: Progress = lambda _: None,
    in_process: bool = False,
) -> Path:
    """Returns the folder of the engine set for a size, built if necessary; see `build`."""
    order, plan = resolve(request, size, out=out)
    folder = order.stage
    refuse_foreign(folder)
    with locked(folder):
        _bring_up_to_date(folder, order, plan, progress, in_process=in_process)
    return folder


def find_set(request: BuildRequest, size: Size) -> Path | None:
    """Returns the folder of a complete set that is up to date in the user's cache, or None.

    The result is also None if the geometry is impossible; see `build` for errors.
    """
    try:
        order, _ = resolve(request, size)
    except UsageError:
        return None
    return order.stage if _why_stale(order.stage, order.key) is None else None


def check_buildable(request: BuildRequest, size: Size) -> None:
    """Raises `StreamDiffVSRError` if the set for a size (h, w) could not be built here."""
    _require_graphs(resolve(request, size)[0])


def _require_graphs(order: BuildSpec) -> None:
    if order.key.backend == "torch":
        return
    GraphSource(order.source, order.key.model_digest).require(order.graph_options)
    if find_spec("onnxruntime") is None:
        raise StreamDiffVSRError(
            f"engines of {order.key.backend} cannot be checked here",
            "onnxruntime, which computes the reference, is not installed",
            "run pip install onnxruntime, or build them where it is",
        )


def _bring_up_to_date(
    folder: Path, order: BuildSpec, plan: Plan, progress: Progress, *, in_process: bool
) -> None:
    """Builds the set unless it is up to date; the caller has locked its folder."""
    from ..export.model_source import model_files

    stale = _why_stale(folder, order.key)
    if stale is None:
        progress(f"up to date: {folder}")
        return
    _require_graphs(order)
    require_keys()
    progress(f"building {folder} ({stale})")
    progress(plan.describe())
    check_memory(model_files(order.source), order.key)
    carry = execute if in_process else execute_in_child
    with staged(folder) as stage:
        carry(replace(order, stage=stage), progress)
        if not in_cache(folder):  # a change of its files must not damage those of the cache
            unshare(stage)
    remember_files(folder, {k: v.sha256 for k, v in read_manifest(folder).files.items()})
    progress(f"built {folder} in {time.monotonic() - order.started:.0f} s")


def _why_stale(folder: Path, key: EngineKey) -> str | None:
    """Returns why the set must be built, or None if it is complete and has this key."""
    if not folder.exists() or not any(folder.iterdir()):
        return "new"
    try:
        manifest = trusted_manifest(folder)
        differences = key.differs_from(manifest.key)
        if differences:
            return "; ".join(differences)
        verify_files(folder, manifest, remembered_digest)
    except StreamDiffVSRError as error:
        return f"{error.what}: {error.why}" if error.why else error.what
    return None
