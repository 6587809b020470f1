"""A program of ATen operators (`program.py`) made callable by torch, on a device.

Only operators of torch's own `aten` library can be named, and results taken apart: nothing that a
file says runs as Python. Knows no buffers and no streams.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from ..errors import StreamDiffVSRError
from ..program import GETITEM, PROGRAM, Program
from ..spec import GraphSpec

Module = Callable[..., tuple[Any, ...]]  # tensors in, tensors out, both in the order of the spec
ATEN = "aten"
NAMES = ("dtype", "layout", "memory_format")  # words for torch's own values


def read_module(path: Path, spec: GraphSpec, device: str) -> Module:
    """The program of a graph, its constants on a device as torch names it: "cpu", "cuda:0".

    Raises:
        StreamDiffVSRError: The file is no program, or not the spec's.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt", device) as file:
            program = Program.from_json(file.metadata()[PROGRAM])
            constants = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        module = torch.fx.GraphModule(*_linked(program, _channels_last(constants, device), device))
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StreamDiffVSRError(
            f"torch cannot load {path.name}",
            f"{type(error).__name__}: {error}",
            "rebuild the engines",
        ) from error
    found = (len(program.inputs), len(program.outputs))
    if found != (wanted := (len(spec.inputs), len(spec.outputs))):
        raise StreamDiffVSRError(
            f"{path.name} is not the graph that its manifest describes",
            f"it has {found} inputs and outputs, not {wanted}",
            "rebuild the engines",
        )
    return module


def _channels_last(constants: dict[str, Any], device: str) -> dict[str, Any]:
    """Convolutions' weights as a GPU's matrix units take them; activations follow.

    On a CPU it pays for the decoder (a fifth) and not for the denoiser, which is most of a frame.
    """
    import torch

    if device == "cpu":
        return constants
    last = torch.channels_last
    return {k: v.to(memory_format=last) if v.ndim == 4 else v for k, v in constants.items()}


def _linked(program: Program, constants: Mapping[str, Any], device: str) -> tuple[Any, Any]:
    """(attributes by name, FX graph): what a GraphModule is made of."""
    import torch

    graph = torch.fx.Graph()
    names = {name: f"constant_{i}" for i, name in enumerate(constants)}
    values = {name: graph.placeholder(name) for name in program.inputs}

    def decoded(argument: Any) -> Any:
        if isinstance(argument, list):
            return [decoded(one) for one in argument]
        if not isinstance(argument, dict):
            return argument
        ((word, name),) = argument.items()
        if word == "value":
            return values[name]
        if word == "constant":
            return graph.get_attr(names[name])
        if word == "device":
            return torch.device(device)
        named = getattr(torch, name, None)
        if type(named).__name__ != word or word not in NAMES:
            raise ValueError(f"{word} {name} is not an argument")
        return named

    for call in program.calls:
        arguments = tuple(decoded(one) for one in call.arguments)
        keywords = {key: decoded(one) for key, one in call.keywords.items()}
        values[call.result] = graph.call_function(_operator(call.operator), arguments, keywords)
    graph.output(tuple(decoded(one) for one in program.outputs))
    return {names[name]: value for name, value in constants.items()}, graph


def _operator(name: str) -> Callable[..., Any]:
    import torch

    if name == GETITEM:
        return operator.getitem
    library, *rest = name.split(".")
    if library != ATEN or len(rest) != 2:
        raise ValueError(f"{name} is not an operator of torch")
    aten: Any = torch.ops.aten
    found: Any = reduce(getattr, rest, aten)
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"{name} is not an operator of torch")
    return found
