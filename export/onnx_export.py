"""Exports graphs to ONNX with symbolic sizes, and keeps the weights that they share in one file."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import onnx
import onnxscript.optimizer
import torch
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_tensor, set_external_data
from polygraphy.backend.onnx import fold_constants as polygraphy_fold
from torch import nn
from torch.export import Dim

from ..graphs.onnx_network import raw_data, tidy
from ..graphs.spec import MAX_PIXELS, MIN_SIDE, SCALE, GraphSpec, Size
from .graph_folder import example_inputs, tracing

OPSET = 20
NO_LIMIT = 2**40  # folding may produce tensors of any size, such as transposed weights
SMALL_BYTES = 2**16  # constants up to this size are folded further when a network is saved
INLINE_BYTES = 2**10  # tensors up to this size are stored in the network itself
MAX_ITEM_BYTES = 8
ALIGNMENT = 64
MAX_BATCH = 64
PACKAGES = ("torch", "onnx", "onnxscript", "polygraphy")
# Of the largest frame; a side of the smallest.
MOST, LEAST = MAX_PIXELS // MIN_SIDE // SCALE, MIN_SIDE // SCALE
Axes = dict[int, Any]


def symbolic_axes(spec: GraphSpec, padded: Size, *, batch: bool = True) -> dict[str, Axes]:
    """Returns the symbolic dimensions of each input, by axis.

    A frame has 4 k x 4 m pixels, and other sizes are multiples of k and m. `flow` takes the size of
    the feature maps, from which k and m do not follow.

    Args:
        padded: LR size (h, w) of the frames for which the spec was made.
        batch: Whether the first axis is symbolic too.
    """
    count = Dim("b", min=1, max=MAX_BATCH)
    units = [(padded[0] // SCALE, Dim("k", min=LEAST, max=MOST))]
    units += [(padded[1] // SCALE, Dim("m", min=LEAST, max=MOST))]
    if spec.name == "flow":
        units = [
            (side, Dim(name, min=2 * LEAST, max=2 * MOST))
            for side, name in zip(spec.inputs[0].shape[2:], ("i", "j"), strict=True)
        ]
    axes: dict[str, Axes] = {}
    for tensor in spec.inputs:
        axes[tensor.name] = {}
        if len(tensor.shape) < 4:
            continue
        first = 1 if tensor.name == "frame" else 2
        for axis, (unit, dim) in enumerate(units, start=first):
            factor = tensor.shape[axis] // unit
            axes[tensor.name][axis] = dim if factor == 1 else factor * dim
        if batch:
            axes[tensor.name][0] = count
    return axes


def export_graph(
    module: nn.Module, spec: GraphSpec, path: Path, axes: Mapping[str, Axes] | None = None
) -> None:
    """Writes one module as `path` and `path` + `.data`, with constants folded.

    Weights are written from torch's memory to the file one by one: a whole copy of them in protobuf
    would take gigabytes in each stage that it passes through.

    Args:
        spec: The graph at one size, whose inputs the module is traced with.
        axes: The symbolic dimensions of each input; None exports the graph of that size alone.
    """
    with tracing():
        program = torch.onnx.export(
            module,
            _examples(spec, axes or {}),
            dynamo=True,
            opset_version=OPSET,
            input_names=[t.name for t in spec.inputs],
            output_names=[t.name for t in spec.outputs],
            dynamic_shapes=None if axes is None else _as_called(module, list(axes.values())),
            optimize=False,
            verbose=False,
        )
        assert program is not None
        # Not `optimize=True`: its rewriter is quadratic in the number of nodes (minutes for flow),
        # and the engines make its other optimizations themselves.
        onnxscript.optimizer.inline(program.model)
        onnxscript.optimizer.fold_constants(
            program.model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT
        )
        onnxscript.optimizer.remove_unused_nodes(program.model)
        program.save(str(path), external_data=True)
        del program
        fold_small_constants(path)


def _examples(spec: GraphSpec, axes: Mapping[str, Axes]) -> tuple[torch.Tensor, ...]:
    """Returns an example of every input; two of each frame, as torch takes one for a constant."""
    return tuple(
        torch.cat([x, x]) if 0 in axes.get(t.name, {}) else x
        for t, x in zip(spec.inputs, example_inputs(spec), strict=True)
    )


def _as_called(module: nn.Module, axes: list[Axes]) -> tuple[Any, ...]:
    """Returns the axes nested like the arguments of `forward`, of which the last may be a list."""
    plain = [
        parameter
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    ]
    rest = axes[len(plain) :]
    return (*axes[: len(plain)], *([tuple(rest)] if rest else []))


def fold_small_constants(path: Path) -> None:
    """Folds the remaining constants of a saved network and tidies it, reading only small tensors.

    Polygraphy runs the constant part in ONNX Runtime, which supports more operators than the
    exporter's own folding; the weights stay in their file.
    """
    network = onnx.load(str(path), load_external_data=False)
    for tensor in network.graph.initializer:
        external = tensor.data_location == TensorProto.EXTERNAL
        if external and prod(tensor.dims) * MAX_ITEM_BYTES <= SMALL_BYTES:
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    folded = polygraphy_fold(network, size_threshold=SMALL_BYTES)
    tidy(folded)
    onnx.save_model(folded, str(path))
    if not any(t.data_location == TensorProto.EXTERNAL for t in folded.graph.initializer):
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)


def share_weights(paths: Sequence[Path], known: Sequence[Path]) -> dict[str, set[str]]:
    """Moves the weights of saved networks to one file, in which each tensor is stored once.

    The file lies next to the networks, and is named after its content.

    Args:
        paths: The networks, all in one folder.
        known: Networks of an earlier export in that folder, whose weights are not stored again.

    Returns:
        The names of the weights files that each network points at, by the network's name.
    """
    folder, places = paths[0].parent, dict[bytes, tuple[str, str]]()
    for path in known:
        for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                digest = hashlib.sha256(raw_data(tensor, folder)).digest()
                entry = {e.key: e.value for e in tensor.external_data}
                places.setdefault(digest, (entry["location"], entry["offset"]))
    networks = {path: onnx.load(str(path), load_external_data=False) for path in paths}
    part, content = folder / "weights.part", hashlib.sha256()
    with part.open("wb") as file:
        for network in networks.values():
            for tensor in network.graph.initializer:
                data = raw_data(tensor, folder)
                if len(data) <= INLINE_BYTES:
                    _store_inside(tensor, data)
                    continue
                digest = hashlib.sha256(data).digest()
                if digest not in places:
                    places[digest] = (part.name, str(file.tell()))
                    block = data + bytes(-len(data) % ALIGNMENT)
                    file.write(block)
                    content.update(block)
                location, offset = places[digest]
                _store_inside(tensor, data)  # which what follows expects
                set_external_data(tensor, location, int(offset), len(data))
                tensor.ClearField("raw_data")
    name = f"weights-{content.hexdigest()[:12]}.data"
    part.replace(folder / name)
    used = {
        path.name: _settle(network, path, part.name, name) for path, network in networks.items()
    }
    if not any(name in names for names in used.values()):
        (folder / name).unlink()  # all of it was known
    return used


def _store_inside(tensor: TensorProto, data: bytes) -> None:
    kind, shape, name = tensor.data_type, list(tensor.dims), tensor.name
    tensor.Clear()
    tensor.data_type, tensor.name, tensor.raw_data = kind, name, data
    tensor.dims.extend(shape)


def _settle(network: onnx.ModelProto, path: Path, part: str, name: str) -> set[str]:
    """Saves a network whose new weights are in the file `name`; returns the files that it uses."""
    used = set()
    for tensor in network.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name if entry.value == part else entry.value
                used.add(entry.value)
    onnx.save_model(network, str(path))
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    return used
