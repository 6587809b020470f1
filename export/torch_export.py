"""Exports a graph as a torch program: its ATen calls in JSON and its constants."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg

from ..graphs.program import GETITEM, PROGRAM, Call, Program
from ..graphs.spec import GraphSpec
from .graph_folder import example_inputs, tracing


def peak_bytes(calls: Sequence[Node]) -> int:
    """Returns the bytes of the results alive at the worst of these calls, run in this order.

    A call's own workspace does not count, nor what existed before: inputs and weights.
    """
    last_use: dict[int, int] = {}
    for index, node in enumerate(calls):
        for one in (node, *node.all_input_nodes):
            last_use |= {storage: index for storage, _ in _storages(one)}
    given = {one for node in calls for one in node.all_input_nodes} - set(calls)
    seen = {storage for node in given for storage, _ in _storages(node)}
    alive: dict[int, int] = {}
    peak = 0
    for index, node in enumerate(calls):
        alive |= {storage: size for storage, size in _storages(node) if storage not in seen}
        seen |= alive.keys()
        peak = max(peak, sum(alive.values()))
        alive = {storage: size for storage, size in alive.items() if last_use[storage] > index}
    return peak


def _storages(node: Node) -> Iterator[tuple[int, int]]:
    """Yields (identity, bytes) of the memory of a node's results; a view shares its source's."""
    value = node.meta.get("val")
    results: Iterable[object] = value if isinstance(value, (list, tuple)) else (value,)
    for result in results:
        if isinstance(result, Tensor):
            storage = result.untyped_storage()
            yield storage._cdata, storage.nbytes()


SMALL_BYTES = 2**20  # a folded result may be this large, or as large as its inputs
# `view` refuses a channels-last tensor, which the engines may make of an activation.
REPLACED = {"aten.view.default": "aten.reshape.default"}
WORDS = {torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory_format"}


def export_program(module: nn.Module, spec: GraphSpec, path: Path) -> int:
    """Writes one module as `path`, a safetensors file.

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
    """Splits a traced program into what is known already and what is left to run.

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
        """Returns the calls that lead to the outputs; fills `kept`."""
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
        """Yields the placeholders of parameters, buffers and tensor constants with their values."""
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
        """Runs an operator now if all its inputs are known and its result is not too large."""
        given = node.all_input_nodes
        if not all(one in self._known for one in given):
            return
        size = sum(_nbytes(self._known[one]) for one in given)
        if _nbytes(node.meta.get("val")) <= max(SMALL_BYTES, size):
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
            # Copied if it is a part of another tensor: a file stores each tensor whole.
            whole = value.is_contiguous() and node.op == "placeholder"
            self.kept[name] = value if whole else value.clone(memory_format=torch.contiguous_format)
        return name


def _check_pure(node: Node) -> None:
    """Checks that an operator has no effects, so that it may be folded or left out."""
    if node.target not in (operator.getitem, torch.ops.aten.detach_.default):
        assert isinstance(node.target, torch._ops.OpOverload)
        assert not node.target._schema.is_mutable, f"{node.target} changes what it is given"


def _nbytes(value: Tensor | Iterable[Any] | None) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(_nbytes(one) for one in value) if isinstance(value, (list, tuple)) else 0
