"""Plans from ONNX with the real TensorRT-RTX, which builds without a GPU; nothing is run."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from streamdiffvsr.engines.host import cuda_gpu
from streamdiffvsr.engines.tensorrt_build import (
    OPTIMIZATION_LEVELS,
    RTX_CAPABILITIES,
    USUAL_LEVEL,
    BuildSettings,
    _configure,
    build_plan,
)
from streamdiffvsr.engines.tensorrt_engine import TrtEngine
from streamdiffvsr.engines.tensorrt_library import TrtLibrary, TrtLog, load_library
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.graphs.spec import GRAPHS, GraphSpec
from streamdiffvsr.tests.engines.graphs import copy_graph, specs_of

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")

SMALL = ("prepare", "guide", "temporal")
USUAL = BuildSettings()
ONE_GPU = BuildSettings(compute_capabilities=(89,))


@pytest.fixture
def library() -> TrtLibrary:
    return load_library("tensorrt-rtx")


@pytest.fixture
def specs(parity_engines: Path) -> dict[str, GraphSpec]:
    return specs_of(parity_engines)


def built(
    library: TrtLibrary, onnx: Path, spec: GraphSpec, settings: BuildSettings = USUAL
) -> tuple[Path, list[float]]:
    plan, told = onnx.with_suffix(".plan"), []
    build_plan(library, onnx, spec, plan, settings, told.append)
    return plan, told


@pytest.mark.parametrize("name", SMALL)
def test_a_small_graph_becomes_a_plan(library, specs, parity_engines, tmp_path, name):
    plan, told = built(library, copy_graph(parity_engines, name, tmp_path), specs[name])
    assert plan.stat().st_size > 100_000
    assert told == sorted(told) and told[0] > 0 and 0.7 < told[-1] <= 1


@pytest.mark.slow
def test_every_graph_becomes_a_plan(library, specs, parity_engines, tmp_path):
    from streamdiffvsr.engines.tensorrt_graph import rewrite_graph

    for name in GRAPHS:
        onnx = copy_graph(parity_engines, name, tmp_path)
        rewrite_graph(onnx, group_norms=library.has_group_norms)
        plan, _ = built(library, onnx, specs[name])
        assert plan.stat().st_size > 100_000


def test_a_plan_is_for_the_gpus_that_were_asked_for(library, specs, parity_engines, tmp_path):
    """The header's mask of compute capabilities, as observed of TensorRT-RTX 1.7."""
    onnx = copy_graph(parity_engines, "prepare", tmp_path)
    bits = {80: 2, 86: 4, 89: 8, 120: 16, 121: 32}
    for wanted in (RTX_CAPABILITIES, (89,), (80, 120)):
        plan, _ = built(library, onnx, specs["prepare"], BuildSettings(wanted))
        assert plan.read_bytes()[32] == sum(bits[c] for c in wanted)


@pytest.mark.parametrize("capability", [75, 90, 999])
def test_a_gpu_that_cannot_run_these_graphs_is_refused(
    library, specs, parity_engines, tmp_path, capability
):
    onnx = copy_graph(parity_engines, "prepare", tmp_path)
    with pytest.raises(
        StreamDiffVSRError,
        match=rf"{capability / 10:.1f}.*choose among 8\.0, 8\.6, 8\.9, 12\.0, 12\.1",
    ):
        built(library, onnx, specs["prepare"], BuildSettings((89, capability)))


@pytest.fixture
def config(library):
    """An untouched builder configuration."""
    builder = library.module.Builder(TrtLog(library).handle)
    yield builder.create_builder_config()


def test_plans_can_be_captured_and_leave_streams_to_the_runtime(library, config):
    flag = library.module.BuilderFlag.REQUIRE_USER_ALLOCATION
    assert (config.get_flag(flag), config.max_aux_streams) == (False, -1)
    _configure(library, TrtLog(library), config, ONE_GPU)
    assert (config.get_flag(flag), config.max_aux_streams) == (True, 0)


def test_the_optimization_level_is_the_librarys_own_unless_asked(library, config):
    assert library.has_optimization_levels
    _configure(library, TrtLog(library), config, ONE_GPU)
    assert config.builder_optimization_level == USUAL_LEVEL
    for level in OPTIMIZATION_LEVELS:
        _configure(library, TrtLog(library), config, replace(ONE_GPU, optimization_level=level))
        assert config.builder_optimization_level == level


def test_every_level_builds(library, specs, parity_engines, tmp_path):
    onnx = copy_graph(parity_engines, "prepare", tmp_path)
    for level in (OPTIMIZATION_LEVELS[0], OPTIMIZATION_LEVELS[-1]):
        settings = replace(ONE_GPU, optimization_level=level)
        assert built(library, onnx, specs["prepare"], settings)[0].stat().st_size > 100_000


def test_the_workspace_can_be_limited(library, config):
    log, pool = TrtLog(library), library.module.MemoryPoolType.WORKSPACE
    _configure(library, log, config, ONE_GPU)
    assert config.get_memory_pool_limit(pool) > 2**24  # the library's choice
    _configure(library, log, config, replace(ONE_GPU, workspace_bytes=2**24))
    assert config.get_memory_pool_limit(pool) == 2**24


@pytest.mark.parametrize(
    ("name", "harm", "told"),
    [
        ("temporal", "gone", "cannot be found"),
        ("flow", "weights gone", r"flow\.onnx: .*initializer"),
        ("temporal", "text", "finds the inputs none"),
        ("temporal", "cut", r"cannot read temporal\.onnx: .*[Pp]arse"),
    ],
)
def test_a_broken_onnx_is_one_line_in_the_parsers_words(
    library, specs, parity_engines, tmp_path, name, harm, told
):
    onnx = copy_graph(parity_engines, name, tmp_path)
    if harm == "gone":
        onnx.unlink()
    elif harm == "weights gone":
        next(tmp_path.glob("*.data")).unlink()
    elif harm == "text":
        onnx.write_bytes(b"hello" * 100)  # to protobuf, unknown fields
    else:
        onnx.write_bytes(onnx.read_bytes()[:-7])
    with pytest.raises(StreamDiffVSRError, match=told) as caught:
        built(library, onnx, specs[name], ONE_GPU)
    assert "\n" not in str(caught.value)
    assert not onnx.with_suffix(".plan").exists()


@pytest.mark.parametrize("change", [{"shape": (1, 3, 8, 8)}, {"dtype": "float16"}, {"name": "w"}])
def test_another_graph_than_the_specs_is_refused(library, specs, parity_engines, tmp_path, change):
    onnx, spec = copy_graph(parity_engines, "temporal", tmp_path), specs["temporal"]
    other = replace(spec, inputs=(replace(spec.inputs[0], **change),))
    with pytest.raises(StreamDiffVSRError, match=r"temporal\.onnx is not the graph temporal"):
        built(library, onnx, other, ONE_GPU)


class Stop(Exception):
    """Raised where progress is reported."""


@pytest.mark.parametrize("raised", [KeyboardInterrupt, Stop])
def test_what_a_callback_raises_stops_the_build_and_arrives(
    library, specs, parity_engines, tmp_path, raised
):
    onnx = copy_graph(parity_engines, "temporal", tmp_path)
    calls = []

    def progress(fraction: float) -> None:
        calls.append(fraction)
        raise raised

    with pytest.raises(raised):
        build_plan(library, onnx, specs["temporal"], tmp_path / "x.plan", ONE_GPU, progress)
    assert len(calls) == 1 and not (tmp_path / "x.plan").exists()


def test_ctrl_c_during_a_build_arrives_after_it(library, specs, parity_engines, tmp_path):
    onnx = copy_graph(parity_engines, "temporal", tmp_path)
    before, calls = signal.getsignal(signal.SIGINT), []

    def progress(fraction: float) -> None:
        calls.append(fraction)
        signal.raise_signal(signal.SIGINT)  # held back: no exception here

    with pytest.raises(KeyboardInterrupt):
        build_plan(library, onnx, specs["temporal"], tmp_path / "x.plan", ONE_GPU, progress)
    assert len(calls) == 1 and not (tmp_path / "x.plan").exists()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(cuda_gpu() is not None, reason="of a machine without a GPU")
def test_a_plan_without_a_gpu_is_one_line(library, specs, parity_engines, tmp_path):
    plan, _ = built(library, copy_graph(parity_engines, "prepare", tmp_path), specs["prepare"])
    with pytest.raises(StreamDiffVSRError, match="CUDA cannot be used: ") as caught:
        TrtEngine(library, plan, specs["prepare"])
    assert "\n" not in str(caught.value)
