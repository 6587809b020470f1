"""A graph as the operators that torch runs: the hand-over from export to the `torch` backend.

`<name>.aten.safetensors` holds one graph: its constants as tensors, and in the metadata, under
`program`, the calls of ATen operators that lead from inputs to outputs. Knows no torch.

An argument of a call is JSON's own value, a list of arguments, or an object with one key:
`{"value": name}` (an input or the result of an earlier call), `{"constant": name}`,
`{"dtype": "float16"}`, `{"layout": "strided"}`, `{"memory_format": "contiguous_format"}`, or
`{"device": ""}`, which stands for the device that the engine runs on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

PROGRAM = "program"
GETITEM = "getitem"  # takes one result of a call that has several


def program_file(name: str) -> str:
    """The program of a graph with its constants."""
    return f"{name}.aten.safetensors"


@dataclass(frozen=True, slots=True)
class Call:
    """One operator: its result's name, `aten.<name>.<overload>` or `getitem`, what it is given."""

    result: str
    operator: str
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Program:
    """The calls in their order.

    Attributes:
        inputs: Names of the values that are given, in the order of the graph's spec.
        outputs: One argument for each output, in that order.
    """

    inputs: Sequence[str]
    calls: Sequence[Call]
    outputs: Sequence[Any]

    def to_json(self) -> str:
        """What `from_json` reads back."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Program:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on anything else."""
        data = json.loads(text)
        return cls(data["inputs"], [Call(**call) for call in data["calls"]], data["outputs"])
