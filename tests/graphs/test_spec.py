"""The graphs' contract: shapes at a size, what a geometry allows, and the way through JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from math import prod
from typing import Any

import pytest

from streamdiffvsr.errors import UsageError
from streamdiffvsr.graphs.spec import (
    GRAPHS,
    MAX_PIXELS,
    TILED,
    Geometry,
    GraphSet,
    GraphSpec,
    ModelDims,
    Size,
    TensorSpec,
    check_size,
    format_size,
    graph_specs,
    padded_size,
)

DIMS = ModelDims(latent=4, hint=32, fmap=256, context=192, temporal=((16, 1), (16, 2), (8, 4)))


def shapes(tensors: tuple[TensorSpec, ...]) -> dict[str, tuple[int, ...]]:
    return {t.name: t.shape for t in tensors}


def dtypes(spec: GraphSpec) -> dict[str, str]:
    return {t.name: t.dtype for t in (*spec.inputs, *spec.outputs)}


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        ((180, 320), (180, 320)),
        ((36, 44), (36, 44)),
        ((45, 50), (48, 52)),
        ((1, 1), (32, 32)),
        ((31, 33), (32, 36)),
        ((32, 100), (32, 100)),
    ],
)
def test_sizes_grow_to_multiples_of_4_and_at_least_32(size: Size, padded: Size) -> None:
    assert padded_size(size) == padded
    assert Geometry(size).padded == padded == Geometry(size).denoised


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (-4, 10), (4320, 7681), (1, MAX_PIXELS + 1)])
def test_what_is_no_frame_is_refused(size: Size) -> None:
    with pytest.raises(UsageError, match=format_size(size)):
        check_size(size)
    with pytest.raises(UsageError):
        Geometry(size)


def test_the_largest_frame_is_8k() -> None:
    check_size((4320, 7680))
    assert format_size((4320, 7680)) == "7680x4320"


@pytest.mark.parametrize(
    ("size", "flow_scale", "tile"),
    [
        ((180, 320), 3, None),
        ((60, 100), 2, None),  # RAFT would see less than 128 pixels
        ((180, 124), 4, None),
        ((180, 320), 1, (64, 66)),
        ((180, 320), 1, (28, 64)),
        ((180, 320), 1, (184, 64)),
    ],
)
def test_a_geometry_that_cannot_run_is_refused(
    size: Size, flow_scale: int, tile: Size | None
) -> None:
    with pytest.raises(UsageError):
        Geometry(size, flow_scale, tile)


def test_the_least_sizes_of_each_flow_scale() -> None:
    assert Geometry((5, 7)).padded == (32, 32)
    Geometry((61, 64), 2)
    Geometry((128, 125), 4)


def test_every_graph_has_its_entry_in_order() -> None:
    assert tuple(graph_specs(Geometry((36, 44)), DIMS, "fp32")) == GRAPHS
    assert set(TILED) <= set(GRAPHS)


def test_shapes_of_an_odd_size() -> None:
    specs = graph_specs(Geometry((45, 50)), DIMS, "fp32")
    lr, hr, coarse = (48, 52), (192, 208), (24, 26)
    latent, temporal = (
        {"latent": (1, 4, *lr)},
        {
            "temporal_0": (1, 16, 12, 13),
            "temporal_1": (1, 16, 24, 26),
            "temporal_2": (1, 8, 48, 52),
        },
    )
    expected: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "prepare": ({"frame": (1, 45, 50, 3)}, {"lr": (1, 3, *lr), "up": (1, 3, *hr)}),
        "features": (
            {"up": (1, 3, *hr)},
            {"fmap": (1, 256, *coarse), "context": (1, 192, *coarse)},
        ),
        "flow": (
            {
                "fmap": (1, 256, *coarse),
                "previous_fmap": (1, 256, *coarse),
                "context": (1, 192, *coarse),
            },
            {"flow": (1, 2, *hr)},
        ),
        "guide": (
            {"previous_hr": (1, 3, 180, 200), "flow": (1, 2, *hr)},
            {"warped": (1, 3, *hr), "hint": (1, 32, *lr)},
        ),
        "temporal": ({"warped": (1, 3, *hr)}, temporal),
        "denoise": (
            latent | {"lr": (1, 3, *lr), "hint": (1, 32, *lr), "step": (1,), "gate": (1,)},
            {"denoised": (1, 4, *lr)},
        ),
        "decode": (
            latent | temporal | {"gate": (1,)},
            {"hr": (1, 3, 180, 200), "frame": (1, 180, 200, 3)},
        ),
    }
    assert {n: (shapes(s.inputs), shapes(s.outputs)) for n, s in specs.items()} == expected


def test_tiles_change_the_tiled_graphs_alone() -> None:
    whole = graph_specs(Geometry((181, 320)), DIMS, "fp32")
    tiled = graph_specs(Geometry((181, 320), tile=(64, 96)), DIMS, "fp32")
    assert {name for name in GRAPHS if whole[name] != tiled[name]} == set(TILED)
    assert shapes(tiled["temporal"].inputs) == {"warped": (1, 3, 256, 384)}
    assert shapes(tiled["denoise"].outputs) == {"denoised": (1, 4, 64, 96)}
    # A tile is cut from the padded frame, so it is not cropped to the frame's own size.
    assert shapes(tiled["decode"].outputs) == {"hr": (1, 3, 256, 384), "frame": (1, 256, 384, 3)}


def test_flow_scale_changes_only_the_features_size() -> None:
    specs = graph_specs(Geometry((132, 148), flow_scale=4), DIMS, "fp32")
    assert shapes(specs["features"].outputs)["fmap"] == (1, 256, 17, 19)  # 16.5 x 18.5, rounded up
    assert shapes(specs["flow"].outputs) == {"flow": (1, 2, 528, 592)}
    half = graph_specs(Geometry((132, 148), flow_scale=2), DIMS, "fp32")
    assert shapes(half["features"].outputs)["context"] == (1, 192, 33, 37)


def test_half_precision_spares_flow_frames_and_step() -> None:
    whole, half = (graph_specs(Geometry((36, 44)), DIMS, p) for p in ("fp32", "fp16"))
    spared = {"flow", "frame", "step"}
    for name in GRAPHS:
        wide, narrow = dtypes(whole[name]), dtypes(half[name])
        assert {k for k in wide if wide[k] == narrow[k]} == spared & wide.keys()
        assert {narrow[k] for k in narrow if k not in spared} <= {"float16"}
    assert dtypes(half["guide"])["flow"] == "float32"
    assert dtypes(half["denoise"])["step"] == "int32"


def test_tensors_know_their_bytes() -> None:
    assert [TensorSpec("x", (1, 3, 5), d).nbytes for d in ("float32", "float16", "uint8")] == [
        60,
        30,
        15,
    ]
    assert TensorSpec("step", (1,), "int32").nbytes == 4
    frame = graph_specs(Geometry((36, 44)), DIMS, "fp16")["prepare"].inputs[0]
    assert frame.nbytes == prod(frame.shape)


@pytest.mark.parametrize(
    "geometry", [Geometry((45, 50)), Geometry((181, 320), 2, (64, 96)), Geometry((128, 128), 4)]
)
def test_a_graph_set_survives_json(geometry: Geometry) -> None:
    graph_set = GraphSet(
        geometry=geometry,
        precision="fp16",
        dims=DIMS,
        steps=4,
        correlation="all-pairs",
        model_digest="0" * 64,
        exporter={"torch": "2"},
        activation_bytes={"flow": 12},
    )
    again = GraphSet.from_json(json.loads(json.dumps(graph_set.to_json())))
    assert again == graph_set
    assert again.specs() == graph_specs(geometry, DIMS, "fp16")
    assert ModelDims.from_json(json.loads(json.dumps(asdict(DIMS)))) == DIMS


def test_a_manifest_cannot_bring_a_geometry_that_cannot_run() -> None:
    data = Geometry((180, 320), tile=(64, 96)).to_json()
    for change in ({"tile": [64, 98]}, {"flow_scale": 3}, {"size": [0, 320]}):
        with pytest.raises(UsageError):
            Geometry.from_json(data | change)
