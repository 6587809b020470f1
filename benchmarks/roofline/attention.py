"""Attention in a graph that has no operator for it: a product, a softmax, a product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .network import Network, Node
from .operators import ATTENTION, Work, bytes_of, node_work

# What may lie between the products and the softmax: scales, masks, conversions.
BETWEEN = ("Add", "Cast", "Div", "Identity", "Mul", "Reshape")


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention: its operators by their place in the graph's order, and its work."""

    nodes: tuple[int, int, int]
    work: Work


def find_attention(network: Network) -> list[Attention]:
    """Every softmax that stands between two matrix products of one graph."""
    makers = {name: i for i, node in enumerate(network.nodes) for name in node.outputs}
    takers: dict[str, list[int]] = {}
    for i, node in enumerate(network.nodes):
        for name in node.inputs:
            takers.setdefault(name, []).append(i)
    found = []
    for i, node in enumerate(network.nodes):
        if node.op != "Softmax":
            continue
        scores = _scores(network, makers, node.inputs[0])
        mix = _mix(network, takers, node.outputs[0])
        if scores is not None and mix is not None:
            found.append(Attention((scores, i, mix), _work(network, scores, mix)))
    return found


def _scores(network: Network, makers: Mapping[str, int], name: str) -> int | None:
    """The product whose result, scaled, is this value."""
    waiting = [name]
    while waiting:
        index = makers.get(waiting.pop())
        if index is None:
            continue
        node = network.nodes[index]
        if node.op == "MatMul":
            return index
        if node.op in BETWEEN:
            waiting.extend(node.inputs)
    return None


def _mix(network: Network, takers: Mapping[str, list[int]], name: str) -> int | None:
    """The product that takes this value as its weights."""
    index = next(iter(takers.get(name, [])), None)
    if index is None:
        return None
    node = network.nodes[index]
    if node.op == "MatMul":
        return index
    return _mix(network, takers, node.outputs[0]) if node.op in BETWEEN else None


def _work(network: Network, scores: int, mix: int) -> Work:
    first, last = network.nodes[scores], network.nodes[mix]
    flops = sum(_flops(network, node) for node in (first, last))
    names = (*first.inputs, last.inputs[1], *last.outputs)
    return Work(ATTENTION, flops, bytes_of(network, names))


def _flops(network: Network, node: Node) -> int:
    work = node_work(network, node)
    assert work is not None  # a matrix product
    return work.flops
