"""Engines that take a range of sizes: which ranges there are, and that TensorRT-RTX builds them."""

from __future__ import annotations

from pathlib import Path

import pytest

import streamdiffvsr
from streamdiffvsr.building.builder import build_set, find_set
from streamdiffvsr.building.request import BuildRequest
from streamdiffvsr.engines.manifest import read_manifest
from streamdiffvsr.engines.tensorrt_library import fits
from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.graphs.spec import GRAPHS, Size, SizeRange, TensorSpec

RANGE = SizeRange((64, 64), (88, 160), (180, 320))


def request(**changes: object) -> BuildRequest:
    values = {
        "model": "tiny",
        "backend": "tensorrt-rtx",
        "precision": "fp32",
        "device": "cuda",
        "profile": RANGE,
    }
    return BuildRequest(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        (((64, 64), (90, 160), (180, 320)), "multiples of 4"),
        (((28, 64), (88, 160), (180, 320)), "at least 32"),
        (((64, 64), (88, 160), (180, 156)), "must not be smaller"),
        (((64, 164), (88, 160), (180, 320)), "must not be smaller"),
        (((64, 64), (88, 160), (8000, 8000)), "too large"),
    ],
)
def test_an_impossible_range_is_one_line(sizes: tuple[Size, Size, Size], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        SizeRange(*sizes)


def test_a_range_reads_as_it_is_written() -> None:
    assert str(RANGE) == "64x64:160x88:320x180"
    assert SizeRange.from_json(RANGE.to_json()) == RANGE
    assert SizeRange.from_json(None) is None


@pytest.mark.parametrize("size", [(64, 64), (88, 160), (180, 320), (64, 320)])
def test_sizes_of_the_range_are_taken(size: Size) -> None:
    RANGE.check(size)


@pytest.mark.parametrize("size", [(60, 64), (64, 324), (66, 64), (184, 320)])
def test_other_sizes_are_refused_before_anything_is_built(size: Size) -> None:
    with pytest.raises(UsageError, match="64x64 to 320x180"):
        build_set(request(), size)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"backend": "onnxruntime", "device": "cpu"}, "onnxruntime has no engines for a range"),
        ({"backend": "torch", "device": "cpu"}, "torch has no engines for a range"),
        ({"precision": "fp8"}, "calibrated at one size"),
        ({"correlation": "on-demand"}, "looked up on demand"),
        ({"tile": (68, 64)}, "tiles of 64x68 do not fit 64x64"),
    ],
)
def test_options_that_exclude_a_range_are_named(changes: dict[str, object], why: str) -> None:
    if request(**changes).backend == "tensorrt-rtx":
        pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    with pytest.raises(StreamDiffVSRError, match=why):
        build_set(request(**changes), RANGE.usual)


def test_a_plan_fits_with_open_sides_alone() -> None:
    found = TensorSpec("lr", (-1, 3, -1, -1), "float32")
    assert fits(found, TensorSpec("lr", (1, 3, 88, 160), "float32"))
    for other in (("lr", (1, 4, 88, 160)), ("hr", (1, 3, 88, 160)), ("lr", (3, 88, 160))):
        assert not fits(found, TensorSpec(*other, "float32"))
    assert not fits(found, TensorSpec("lr", (1, 3, 88, 160), "float16"))


@pytest.mark.slow
def test_one_set_of_plans_serves_every_size_of_the_range(
    parity_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path))
    wanted = request(
        model=str(parity_model),
        profile=SizeRange((32, 32), (48, 64), (96, 96)),
        compute_capabilities=(89,),
    )
    folder = build_set(wanted, (48, 64))
    manifest = read_manifest(folder)
    assert (manifest.gate, manifest.key.size) == ("pending", "64x48")
    assert manifest.graphs.sizes == wanted.profile
    assert {f"{name}.plan" for name in GRAPHS} <= set(manifest.files)
    for size in ((32, 32), (96, 96), (36, 92)):
        assert find_set(wanted, size) == folder
        assert manifest.graphs.at(size).geometry.size == size
    with pytest.raises(UsageError, match="32x32 to 96x96"):
        streamdiffvsr.load(folder, size=(100, 96))
