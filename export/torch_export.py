"""Export of a graph to a program of ATen operators (`program.py`), constants folded.

`torch.export` traces the module, a third of the time that ONNX takes. Its own file is not used:
reading one back costs as much as tracing again (7 s for the small model's `denoise`, 0.2 s for
this), holds a pickle, and keeps weights that no operator reads. Knows no backend.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg

from ..program import GETITEM, PROGRAM, Call, Program, program_file
from ..spec import GraphSpec
from .graph_folder import Form
from .liveness import peak_bytes
from .tracing import example_inputs, tracing

SMALL_BYTES = 2**20  # what is computed from constants may be this large, or as they are
# Of a channels-last tensor, which `view` refuses and the engines may make of an activation.
REPLACED = {"aten.view.default": "aten.reshape.default"}
WORDS = {torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory_format"}


def export_program(module: nn.Module, spec: GraphSpec, path: Path) -> int:
    """Write one module as `path`, a safetensors file.

    Returns:
        Bytes of the intermediate tensors that are alive at its worst operator.
    """
    with tracing(), torch.no_grad():
        traced = torch.export.export(module, example_inputs(spec), strict=False)
        writer = _Writer(traced)
        program = writer.program()
        save_file(writer.kept, str(path), {PROGRAM: program.to_json()})
    return peak_bytes(writer.needed)


class _Writer:
    """What of a traced program is known already, and what is left to be run.

    Attributes:
        needed: The operators that are left, in their order.
        kept: The constants that they need, by name.
    """

    def __init__(self, traced: ExportedProgram) -> None:
        self._traced = traced
        self._names: dict[Node, str] = {}
        self._known: dict[Node, Any] = dict(self._weights())
        self.kept: dict[str, Tensor] = {}
        for node in traced.graph.nodes:
            if node.op == "call_function":
                _check_pure(node)
                self._fold(node)
        self._outputs = traced.graph.output_node().args[0]
        self.needed = self._still_needed()

    def program(self) -> Program:
        """The calls that lead to the outputs; fills `kept`."""
        inputs = [str(name) for name in self._traced.graph_signature.user_inputs]
        calls = [self._call(node) for node in self.needed]
        return Program(inputs, calls, self._encoded(self._outputs))

    def _still_needed(self) -> list[Node]:
        nodes = self._traced.graph.nodes
        wanted: set[Node] = set(self._traced.graph.output_node().all_input_nodes)
        found = []
        for node in reversed(nodes):
            if node.op == "call_function" and node in wanted and node not in self._known:
                found.append(node)
                wanted.update(node.all_input_nodes)
        return found[::-1]

    def _weights(self) -> Iterator[tuple[Node, Tensor]]:
        """Parameters, buffers and tensors that the modules hold, with their placeholders."""
        traced, signature = self._traced, self._traced.graph_signature
        names = signature.inputs_to_parameters | signature.inputs_to_buffers
        names |= signature.inputs_to_lifted_tensor_constants
        for node in traced.graph.nodes:
            if node.op == "placeholder" and node.name in names:
                name = names[node.name]
                self._names[node] = name
                value = traced.state_dict.get(name)
                yield node, (traced.constants[name] if value is None else value).detach()

    def _fold(self, node: Node) -> None:
        """Run an operator now if all that it is given is known and the result not too large."""
        given = node.all_input_nodes
        if not all(one in self._known for one in given):
            return
        held = sum(_nbytes(self._known[one]) for one in given)
        if _nbytes(node.meta.get("val")) <= max(SMALL_BYTES, held):
            args, keywords = map_arg((node.args, node.kwargs), lambda one: self._known[one])
            assert callable(node.target)
            self._known[node] = node.target(*args, **keywords)
            self._names[node] = f"folded.{node.name}"

    def _call(self, node: Node) -> Call:
        target = str(node.target)
        name = GETITEM if node.target is operator.getitem else REPLACED.get(target, target)
        keywords = {key: self._encoded(value) for key, value in node.kwargs.items()}
        return Call(node.name, name, self._encoded(node.args), keywords)

    def _encoded(self, argument: Any) -> Any:
        if isinstance(argument, Node):
            if argument not in self._known:
                return {"value": argument.name}
            return {"constant": self._keep(argument)}
        if isinstance(argument, torch.device):
            return {"device": ""}
        if isinstance(argument, (list, tuple)):
            return [self._encoded(one) for one in argument]
        word = WORDS.get(type(argument))
        return argument if word is None else {word: str(argument).removeprefix("torch.")}

    def _keep(self, node: Node) -> str:
        name, value = self._names[node], self._known[node]
        if name not in self.kept:
            # A copy where it is a part of another: a file holds each tensor whole.
            whole = value.is_contiguous() and node.op == "placeholder"
            self.kept[name] = value if whole else value.clone(memory_format=torch.contiguous_format)
        return name


def _check_pure(node: Node) -> None:
    """Folding, and leaving out what no output needs, is right for operators without effects."""
    if node.target not in (operator.getitem, torch.ops.aten.detach_.default):
        assert isinstance(node.target, torch._ops.OpOverload)
        assert not node.target._schema.is_mutable, f"{node.target} changes what it is given"


def _nbytes(value: Tensor | Iterable[Any] | None) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(_nbytes(one) for one in value) if isinstance(value, (list, tuple)) else 0


def _write(module: nn.Module, spec: GraphSpec, folder: Path) -> int:
    return export_program(module, spec, folder / program_file(spec.name))


PROGRAMS = Form(_write, ("torch",))
