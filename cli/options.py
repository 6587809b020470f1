"""The options that several commands share, and what they mean for a build.

Knows how users write things; whether a value is possible is for whoever takes it to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..graphs.spec import DEFAULT_STEPS, Size, parse_size

BUILT_IN, AUTO = "tiny", "auto"
MAX_SEED = 2**63 - 1

DEFAULT_SIZE = "320x180"
ENGINES = "Model and engines"  # the help's heading over options of a build

Engines = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="An engine set that was built before.", rich_help_panel=ENGINES
    ),
]
MaxFrames = Annotated[int | None, typer.Option(metavar="N", min=1, help="Stop after N frames.")]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help="Of the input; repeat it for more.",
        show_default=DEFAULT_SIZE,
    ),
]
EnginesOut = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where they go.", show_default="the user's cache"),
]
DemoOut = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the results go.")]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="M",
        help="tiny (built in), a folder, a Hugging Face repo id, or auto: the released weights "
        "if they can be had, else tiny.",
        show_default=BUILT_IN,
        rich_help_panel=ENGINES,
    ),
]
BackendName = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="B",
        help="auto, tensorrt, tensorrt-rtx, onnxruntime or torch.",
        rich_help_panel=ENGINES,
    ),
]
PrecisionName = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="P",
        help="fp32, fp16, or fp8 (TensorRT, compute capability 8.9 and newer).",
        show_default="fp16 on a GPU, else fp32",
        rich_help_panel=ENGINES,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="D",
        help="auto, cpu, cuda, or a GPU by its number: cuda:1.",
        rich_help_panel=ENGINES,
    ),
]
Steps = Annotated[
    int,
    typer.Option(
        metavar="N",
        help=f"Denoising steps; the released model is made for {DEFAULT_STEPS}.",
        rich_help_panel=ENGINES,
    ),
]
FlowScale = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Find the flow at 1/N of the output: 1, 2 or 4.",
        show_default="by size",
        rich_help_panel=ENGINES,
    ),
]
Tile = Annotated[
    str,
    typer.Option(
        metavar="T",
        help="auto, off (the whole frame), or WxH of the tiles.",
        rich_help_panel=ENGINES,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        metavar="R", help="Branch, tag or commit of a Hugging Face repo.", rich_help_panel=ENGINES
    ),
]
ColorMatch = Annotated[
    str,
    typer.Option(
        metavar="WHEN",
        help="Hold the input's colours: on, off, or auto: as the model needs.",
        rich_help_panel=ENGINES,
    ),
]
ComputeCapabilities = Annotated[
    str | None,
    typer.Option(
        "--compute-capabilities",
        metavar="LIST",
        help="The GPUs of tensorrt-rtx engines, such as 8.6,8.9.",
        show_default="8.0,8.6,8.9,12.0,12.1",
    ),
]
Workspace = Annotated[
    int | None,
    typer.Option(
        metavar="MIB", min=1, help="The most scratch memory of a layer of a TensorRT engine."
    ),
]
OptimizationLevel = Annotated[
    int | None,
    typer.Option(
        "--optimization-level",
        metavar="N",
        help="How long TensorRT looks for quicker engines, 0 to 5.",
        show_default="3",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, max=MAX_SEED, help="Of the noise.")]
Json = Annotated[
    bool,
    typer.Option(
        "--json", metavar="", help="Print one JSON object as the last line, of failures too."
    ),
]


JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the result; - prints it.")
]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How engines are built, as written on the command line; the defaults leave it open."""

    backend: str = "auto"
    precision: str | None = None
    steps: int = DEFAULT_STEPS
    flow_scale: int | None = None
    tile: str = "auto"
    device: str = "auto"
    revision: str | None = None
    compute_capabilities: str | None = None
    workspace_mib: int | None = None
    optimization_level: int | None = None
    color_match: str = "auto"

    @property
    def run_on(self) -> str | None:
        """As `load` takes the device: None where it is left open, for a set's own."""
        return None if self.device == "auto" else self.device

    def settled(self, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
        """As keywords of `build`, with nothing left open.

        Args:
            tell: Receives the line that says which backend was chosen, where it was left open.

        Raises:
            StreamDiffVSRError: The backend is unknown or not installed, or the tile not a size.
        """
        from ..engines.registry import choose

        choice = choose(self.backend, self.precision, self.device)
        if self.backend == "auto":
            tell(choice.describe())
        tiles: dict[str, Size | str | None] = {"auto": "auto", "off": None}
        return {
            "backend": choice.backend,
            "precision": choice.precision,
            "device": choice.device,
            "steps": self.steps,
            "flow_scale": self.flow_scale,
            "tile": tiles[self.tile] if self.tile in tiles else parse_size(self.tile, "--tile"),
            "revision": self.revision,
            "compute_capabilities": parse_capabilities(self.compute_capabilities),
            "workspace_mib": self.workspace_mib,
            "optimization_level": self.optimization_level,
            "color_match": self.color_match,
        }


def parse_capabilities(text: str | None) -> list[int] | None:
    """Compute capabilities, as users write them ("8.6,8.9", or "sm86"), as 86 and 89."""
    if text is None:
        return None
    parts = [part.strip().lower().removeprefix("sm").replace(".", "") for part in text.split(",")]
    if not all(re.fullmatch(r"\d{2,3}", part) for part in parts):
        raise UsageError(
            f"--compute-capabilities {text!r:.60} is not a list of them", remedy="write 8.6,8.9"
        )
    return [int(part) for part in parts]


def described(folder: Path, device: str | None = None) -> dict[str, Any]:
    """What `--json` tells of an engine set, with the memory that is free on a device."""
    from ..engines.manifest import read_manifest
    from ..runtime.memory import check_memory_fit

    manifest = read_manifest(folder)
    key = manifest.key
    return {
        "path": str(folder),
        "model": manifest.model_name,
        "size": key.size,
        "precision": key.precision,
        "backend": key.backend,
        "device": key.device,
        "steps": key.steps,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "memory": check_memory_fit(folder, device).to_json(),
        "gate": manifest.gate,
        "parity_error": max((entry.error for entry in manifest.parity.values()), default=None),
        "build_seconds": manifest.build_seconds,
    }
