"""What a folder of exported graphs says of itself: the hand-over from export to engines.

A graph folder holds, for each graph of `spec.GRAPHS`, `<name>.onnx` with its large weights beside
it in `<name>.onnx.data`, the torch module's recorded inputs and outputs in
`<name>.golden.safetensors`, and one `graphs.json`. Knows no torch and no backend.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from .spec import Geometry, GraphSpec, ModelDims, Precision, graph_specs

GRAPHS_JSON = "graphs.json"
# Raise when the same model at the same size would export to other graphs, or TensorRT get others.
GRAPH_VERSION = 3


def onnx_file(name: str) -> str:
    """The network; its weights lie beside it under the same name and `.data`."""
    return f"{name}.onnx"


def golden_file(name: str) -> str:
    """Recorded tensors: `in.<tensor>` and `out.<tensor>`, outputs in float32."""
    return f"{name}.golden.safetensors"


@dataclass(frozen=True, slots=True)
class GraphSet:
    """One model exported at one size and precision.

    Attributes:
        steps: Number of denoising steps in the `denoise` graph's tables.
        correlation: RAFT's lookup, "all-pairs" or "on-demand".
        exporter: Names and versions of what wrote the graphs.
        activation_bytes: By graph, the intermediate tensors that are alive at its worst node.
    """

    geometry: Geometry
    precision: Precision
    dims: ModelDims
    steps: int
    correlation: str
    model_digest: str
    exporter: Mapping[str, str]
    activation_bytes: Mapping[str, int] = field(default_factory=dict)

    def specs(self) -> dict[str, GraphSpec]:
        """Every graph's tensors."""
        return graph_specs(self.geometry, self.dims, self.precision)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        return {
            "geometry": self.geometry.to_json(),
            "precision": self.precision,
            "dims": asdict(self.dims),
            "steps": self.steps,
            "correlation": self.correlation,
            "model_digest": self.model_digest,
            "exporter": dict(self.exporter),
            "activation_bytes": dict(self.activation_bytes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GraphSet:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on anything else."""
        if data["precision"] not in ("fp32", "fp16"):
            raise ValueError(f"unknown precision {data['precision']!r}")
        return cls(
            geometry=Geometry.from_json(data["geometry"]),
            precision=cast(Precision, data["precision"]),
            dims=ModelDims.from_json(data["dims"]),
            steps=int(data["steps"]),
            correlation=str(data["correlation"]),
            model_digest=str(data["model_digest"]),
            exporter={str(k): str(v) for k, v in data["exporter"].items()},
            activation_bytes={str(k): int(v) for k, v in data["activation_bytes"].items()},
        )

    def write(self, folder: Path) -> None:
        """Write `graphs.json`."""
        text = json.dumps(self.to_json(), indent=2)
        (folder / GRAPHS_JSON).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> GraphSet:
        """Read `graphs.json`."""
        return cls.from_json(json.loads((folder / GRAPHS_JSON).read_text(encoding="utf-8")))
