"""How much memory a traced graph needs while torch runs it, counted on its shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor
from torch.fx import Node


def peak_bytes(calls: Sequence[Node]) -> int:
    """Bytes of the results that are alive at the worst of these calls, run in this order.

    What lies in a call's own workspace does not count, nor what was there before: inputs, weights.
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
    """(identity, bytes) of the memory of a node's results: a view has that of what it views."""
    value = node.meta.get("val")
    results: Iterable[object] = value if isinstance(value, (list, tuple)) else (value,)
    for result in results:
        if isinstance(result, Tensor):
            storage = result.untyped_storage()
            yield storage._cdata, storage.nbytes()
