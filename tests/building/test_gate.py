"""The parity gate refuses graphs that were made wrongly, large ones that are checked small too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

import streamdiffvsr
from streamdiffvsr.building import graph_source
from streamdiffvsr.engines import specialise
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.export.model_source import BUILT_IN_FOLDER, model_digest
from streamdiffvsr.graphs import plan
from streamdiffvsr.graphs.library import GraphLibrary
from streamdiffvsr.graphs.spec import Geometry

Break = Callable[[pytest.MonkeyPatch], None]
SIZE, LARGE = (37, 41), (132, 199)
WINDOW = (2 * 4 + 2) ** 2  # the rows that the built-in model looks up for each position


def shipped() -> GraphLibrary:
    library = GraphLibrary.read(graph_source.SHIPPED, model_digest(BUILT_IN_FOLDER))
    assert library is not None
    return library


def refused(tmp_path: Path, size: tuple[int, int], **options: Any) -> str:
    with pytest.raises(StreamDiffVSRError) as caught:
        streamdiffvsr.build("tiny", size=size, out=tmp_path / "set", **options)
    assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
    return str(caught.value)


def wrong_padding(patch: pytest.MonkeyPatch) -> None:
    """The row and column before the last are repeated."""
    real = specialise._padded

    def padded(graph: Any, *specs: Any) -> Any:
        nodes = real(graph, *specs)
        for tensor in graph.initializer:
            if ".index" in tensor.name:
                index = numpy_helper.to_array(tensor)
                tensor.CopyFrom(
                    numpy_helper.from_array(np.minimum(index, index.max() - 1), tensor.name)
                )
        return nodes

    patch.setattr(specialise, "_padded", padded)


def wrong_crop(patch: pytest.MonkeyPatch) -> None:
    """One row further down."""
    real = specialise._Known.add

    def add(self: Any, name: str, value: Any) -> None:
        shifted = name.endswith((".from", ".to")) and len(value) == 4
        real(self, name, value + np.array([0, 0, 1, 0]) if shifted else value)

    patch.setattr(specialise._Known, "add", add)


@pytest.mark.parametrize("size", [SIZE, LARGE])
@pytest.mark.parametrize(("harm", "graph"), [(wrong_padding, "prepare"), (wrong_crop, "decode")])
def test_a_frame_that_is_padded_or_cropped_wrongly(tmp_path, monkeypatch, size, harm, graph):
    assert graph_source.small_geometry(Geometry(LARGE)) != Geometry(LARGE)
    harm(monkeypatch)
    message = refused(tmp_path, size)
    assert f"the {graph} engine is not accepted" in message or f"{graph}.onnx is not" in message


def lost_chunk(nodes: list[Any]) -> None:
    joined = nodes[-1]
    joined.input[0] = joined.input[1]


def swapped_chunks(nodes: list[Any]) -> None:
    nodes[-1].input[:] = nodes[-1].input[::-1]


@pytest.mark.parametrize("harm", [lost_chunk, swapped_chunks])
def test_chunks_that_only_the_large_size_has(tmp_path, monkeypatch, harm):
    """The graphs that are checked are split into as many, though they would fit in one."""
    real, counts = specialise._in_chunks, set()

    def in_chunks(rows: Any, product: Any, known: Any, lengths: list[int]) -> Iterator[Any]:
        counts.add(len(lengths))
        nodes = list(real(rows, product, known, lengths))
        harm(nodes)
        return iter(nodes)

    bytes_of_one = 4 * shipped().dims.fmap * WINDOW
    monkeypatch.setattr(plan, "CHUNK_BYTES", bytes_of_one * 66 * 100 // 2)
    monkeypatch.setattr(specialise, "_in_chunks", in_chunks)
    assert "the flow engine is not accepted" in refused(
        tmp_path, LARGE, correlation="on-demand", flow_scale=1
    )
    assert counts == {2}


def test_an_operator_that_only_the_large_size_has(tmp_path, monkeypatch):
    """The large graphs are then checked themselves."""
    real = specialise._chunked

    def chunked(nodes: list[Any], known: Any, positions: int | None) -> list[Any]:
        made = real(nodes, known, positions)
        if any(known.shape(name)[2:] == (528, 800) for name in list(known.types)):
            node = next((node for node in made if node.op_type == "Relu"), None)
            if node is not None:
                node.op_type = "Abs"
        return made

    monkeypatch.setattr(specialise, "_chunked", chunked)
    assert "the features engine is not accepted" in refused(tmp_path, LARGE)


def test_large_sets_are_checked_by_graphs_of_one_skeleton(tmp_path, monkeypatch):
    """For every kind of plan that sizes lead to, so that no frame of theirs has to be computed."""
    monkeypatch.setattr(graph_source, "record_golden", None)
    library = shipped()
    for index, size in enumerate(((181, 323), (360, 640), (720, 1280), (1080, 1920), (35, 1000))):
        chosen = plan.make_plan(size)
        options = graph_source.GraphOptions(
            "fp32", 4, chosen.geometry.flow_scale, chosen.correlation
        )
        sources = {g: graph_source.SHIPPED / name for g, name in options.files().items()}
        whole, small = tmp_path / f"whole{index}", tmp_path / f"small{index}"
        for folder in (whole, small):
            folder.mkdir()
        write, geometry = graph_source.write_set, chosen.geometry
        write(library, sources, options, geometry, whole)
        write(
            library,
            sources,
            options,
            graph_source.small_geometry(geometry),
            small,
            stands_for=geometry,
        )
        assert graph_source.have_one_skeleton(whole, small), size
