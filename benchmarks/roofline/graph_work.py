"""The work of a whole graph: its operators, as often as each runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import StreamDiffVSRError
from .attention import find_attention
from .network import Network, Node, read_network
from .operators import Work, node_work


@dataclass(frozen=True, slots=True)
class GraphWork:
    """What one run of a graph does.

    Attributes:
        operators: How often each distinct piece of work is done in one run.
    """

    operators: Mapping[Work, int]

    @property
    def flops(self) -> int:
        """Of one run."""
        return sum(work.flops * count for work, count in self.operators.items())

    @property
    def nbytes(self) -> int:
        """Of one run."""
        return sum(work.nbytes * count for work, count in self.operators.items())

    def by_kind(self) -> dict[str, tuple[int, int, int]]:
        """Kind of operator -> (operators, FLOPs, bytes) of one run, the most FLOPs first."""
        totals: dict[str, tuple[int, int, int]] = {}
        for work, count in self.operators.items():
            n, flops, nbytes = totals.get(work.kind, (0, 0, 0))
            totals[work.kind] = (
                n + count,
                flops + count * work.flops,
                nbytes + count * work.nbytes,
            )
        return dict(sorted(totals.items(), key=lambda item: -item[1][1]))

    def to_json(self) -> dict[str, list[list[int]]]:
        """Kind -> lists of [FLOPs, bytes, count], most FLOPs first; `from_json` reads it back."""
        listed: dict[str, list[list[int]]] = {}
        for work, count in self.operators.items():
            listed.setdefault(work.kind, []).append([work.flops, work.nbytes, count])
        return {kind: sorted(rows, reverse=True) for kind, rows in sorted(listed.items())}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GraphWork:
        """The inverse of `to_json`; raises TypeError or ValueError on anything else."""
        return cls(
            {
                Work(kind, int(flops), int(nbytes)): int(count)
                for kind, rows in data.items()
                for flops, nbytes, count in rows
            }
        )


def count_file(path: Path) -> GraphWork:
    """The work of one run of an ONNX file, by the rule of `operators.py`.

    Raises:
        StreamDiffVSRError: onnx is not installed, the file cannot be read, or something in it
            cannot be counted.
    """
    operators: Counter[Work] = Counter()
    for work, count in _network_work(read_network(path), 1):
        operators[work] += count
    return GraphWork(dict(operators))


def _network_work(network: Network, runs: int) -> Iterator[tuple[Work, int]]:
    attentions = find_attention(network)
    within = {index for attention in attentions for index in attention.nodes}
    for attention in attentions:
        yield attention.work, runs
    for index, node in enumerate(network.nodes):
        if node.bodies:
            yield from _body_work(network, node, runs)
        elif index not in within and (work := node_work(network, node)) is not None:
            yield work, runs


def _body_work(network: Network, node: Node, runs: int) -> Iterator[tuple[Work, int]]:
    """Of the graph inside an operator: each turn of a loop, the heavier branch of a choice."""
    if node.op == "If":
        branches = [list(_network_work(body, runs)) for body in node.bodies.values()]
        yield from max(branches, key=lambda works: sum(w.flops * n for w, n in works))
        return
    yield from _network_work(node.bodies["body"], runs * _turns(network, node))


def _turns(network: Network, node: Node) -> int:
    if node.op == "Loop" and node.inputs[0] in network.numbers:
        return network.numbers[node.inputs[0]]
    if node.op == "Scan":
        first_scanned = len(node.inputs) - int(node.attributes["num_scan_inputs"])
        return network.tensor(node.inputs[first_scanned]).shape[0]
    raise StreamDiffVSRError(
        f"the work of {network.name} cannot be counted",
        f"how often its {node.op} runs is only known when it does",
    )
