"""A graph as the operators that torch runs: what the export hands to the `torch` backend.

`<name>.aten.safetensors` stores one graph: its constants as tensors, and in the metadata, under
`program`, the calls of ATen operators that lead from inputs to outputs. This module does not need
torch.

An argument of a call is a plain JSON value, a list of arguments, or an object with one key:
`{"value": name}` (an input or the result of an earlier call), `{"constant": name}`, `{"dtype":
"float16"}`, `{"layout": "strided"}`, `{"memory_format": "contiguous_format"}`, or `{"device": ""}`,
which stands for the device that the engine runs on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..reading import parse_json

PROGRAM = "program"
GETITEM = "getitem"  # selects one result of a call that has several


def program_file(name: str) -> str:
    """Returns the name of the file that stores a graph's program and constants."""
    return f"{name}.aten.safetensors"


@dataclass(frozen=True, slots=True)
class Call:
    """One operator call.

    Attributes:
        result: The name of its result.
        operator: `aten.<name>.<overload>` or `getitem`.
        arguments: Its positional arguments.
        keywords: Its keyword arguments.
    """

    result: str
    operator: str
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Program:
    """The calls in the order in which they run.

    Attributes:
        inputs: Names of the input values, in the order of the graph's spec.
        outputs: One argument for each output, in that order.
    """

    inputs: Sequence[str]
    calls: Sequence[Call]
    outputs: Sequence[Any]

    def to_json(self) -> str:
        """Returns the JSON text that `from_json` reads."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Program:
        """Parses the text that `to_json` returns.

        Raises:
            KeyError: An entry is missing.
            TypeError: An entry has the wrong type or an unknown field.
            ValueError: The text is not JSON.
        """
        data = parse_json(text)
        return cls(data["inputs"], [Call(**call) for call in data["calls"]], data["outputs"])
