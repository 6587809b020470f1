"""The making of one engine set, as an order that this process or another can carry out.

Everything has been decided before: what is here reads weights, exports, compiles and checks, and
writes into one folder. It is where the memory and the minutes go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..engines.engine_set import accept_graphs
from ..engines.manifest import EngineKey
from ..engines.precision import FP8, graph_precision
from ..errors import StreamDiffVSRError
from ..spec import Geometry

if TYPE_CHECKING:
    from ..export.graph_folder import Form
    from ..export.model import Model

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """What to build, from what, and where.

    Attributes:
        source: The model folder.
        stage: An existing empty folder, which becomes the engine set.
        correlation: RAFT's lookup, "all-pairs" or "on-demand".
        device: Where the engines are made and checked, "cpu", "cuda" or "cuda:1".
        workspace_bytes: The most scratch memory of a compiled layer; None is the library's choice.
        started: `time.monotonic()` when the build began.
    """

    source: Path
    stage: Path
    key: EngineKey
    model_name: str
    geometry: Geometry
    correlation: str
    device: str
    workspace_bytes: int | None
    started: float

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        return {
            "source": str(self.source),
            "stage": str(self.stage),
            "key": asdict(self.key),
            "model_name": self.model_name,
            "geometry": self.geometry.to_json(),
            "correlation": self.correlation,
            "device": self.device,
            "workspace_bytes": self.workspace_bytes,
            "started": self.started,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BuildSpec:
        """The inverse of `to_json`."""
        return cls(
            source=Path(data["source"]),
            stage=Path(data["stage"]),
            key=EngineKey(**data["key"]),
            model_name=data["model_name"],
            geometry=Geometry.from_json(data["geometry"]),
            correlation=data["correlation"],
            device=data["device"],
            workspace_bytes=data["workspace_bytes"],
            started=data["started"],
        )


def execute(order: BuildSpec, progress: Progress) -> None:
    """Fill `order.stage` with a whole engine set.

    Raises:
        StreamDiffVSRError: One line: what could not be done, why, what to do.
    """
    export(order, progress)
    accept_graphs(
        order.stage,
        order.key,
        order.model_name,
        package_version=__version__,
        started=order.started,
        progress=progress,
        workspace_bytes=order.workspace_bytes,
        device=order.device,
    )


def export(order: BuildSpec, progress: Progress) -> None:
    """Fill `order.stage` with a graph folder, as the backend of the order takes it.

    Raises:
        StreamDiffVSRError: The model cannot be read or quantised, or the graphs not be written.
    """
    from ..export.graph_folder import export_graphs
    from ..export.model import load_model

    form, key = _form(order.key.backend), order.key
    progress("load weights")
    model = load_model(order.source, match_colour=key.match_colour)
    try:
        quantise = _quantiser(model, order, progress) if key.precision == FP8 else None
        export_graphs(
            model,
            order.stage,
            form,
            geometry=order.geometry,
            precision=graph_precision(key.precision),
            steps=key.steps,
            correlation=order.correlation,
            progress=lambda name: progress(f"export {name}"),
        )
        del model  # quantising takes gigabytes of its own
        if quantise is not None:
            quantise()
    except OSError as error:
        raise StreamDiffVSRError(
            f"cannot write the graphs to {order.stage.parent}",
            str(error),
            "free space or use --out",
        ) from error


def _quantiser(model: Model, order: BuildSpec, progress: Progress) -> Callable[[], None]:
    """What quantises the graphs once they are exported; it needs the model no more."""
    from .quantised import calibration_inputs, quantise_graphs

    key = order.key
    inputs = calibration_inputs(model, order.geometry, key.steps, order.correlation, progress)
    return partial(quantise_graphs, order.stage, inputs, progress)


def _form(backend: str) -> Form:
    """What the graphs of a backend are exported as; ONNX takes most of a build, and torch none."""
    if backend == "torch":
        from ..export.torch_export import PROGRAMS

        return PROGRAMS
    from ..export.onnx_export import ONNX

    return ONNX
