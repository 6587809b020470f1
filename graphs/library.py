"""The symbolic graphs of one model: which files there are, and how one is named.

A graph is exported once for each option that changes it, and serves every frame size. The folder
has one ONNX file for each, files of weights that the graphs share, and `graphs.json`, which
has the digests of all. The built-in model ships its folder; others are kept in the user's cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..durable import write_atomically
from ..reading import parse_json, read_small
from .spec import GRAPH_VERSION, GRAPHS, GRAPHS_JSON, MAX_JSON_BYTES, ModelDims, Precision

GRAPH_SUFFIX = ".onnx"


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """The options that decide the content of the graphs of one model.

    Attributes:
        steps: The number of denoising steps in the tables of `denoise`.
        flow_scale: The flow is computed at HR divided by 1, 2 or 4.
        correlation: RAFT's lookup, "all-pairs" or "on-demand".
        colour: "on" or "off" if the build overrides whether `decode` takes LR's colours, else "".
    """

    precision: Precision
    steps: int
    flow_scale: int
    correlation: str
    colour: str = ""

    def describe(self) -> str:
        """Returns the options that a user chooses, in words."""
        colour = self.colour and f", colours matched: {self.colour}"
        return f"{self.steps} steps in {self.precision}{colour}"

    def file(self, graph: str) -> str:
        """Returns the name of a graph's file, which has only the options that change the graph."""
        parts: dict[str, tuple[str, ...]] = {
            "features": (f"flow{self.flow_scale}",),
            "flow": (f"flow{self.flow_scale}", self.correlation),
            "denoise": (f"steps{self.steps}",),
            "decode": (self.colour and f"colour-{self.colour}",),
        }
        name = ".".join([graph, self.precision, *filter(None, parts.get(graph, ()))])
        return name + GRAPH_SUFFIX

    def files(self) -> dict[str, str]:
        """Returns the file of every graph, by the graph's name."""
        return {graph: self.file(graph) for graph in GRAPHS}


@dataclass(frozen=True, slots=True)
class Stored:
    """A file: the SHA-256 of its content, and for a graph the weights files that it points at."""

    sha256: str
    weights: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GraphLibrary:
    """The content of a library's `graphs.json`.

    Attributes:
        model_digest: The digest of the model's files.
        dims: The model's dimensions, with its config's own choice on colours.
        exporter: Names and versions of the packages that wrote the graphs.
        files: Every file by its name.
    """

    model_digest: str
    dims: ModelDims
    exporter: Mapping[str, str]
    files: Mapping[str, Stored] = field(default_factory=dict)

    def dims_of(self, options: GraphOptions) -> ModelDims:
        """Returns the model's dimensions with a build's choice on colours."""
        if not options.colour:
            return self.dims
        return replace(self.dims, match_colour=options.colour == "on")

    def write(self, folder: Path) -> None:
        """Writes `graphs.json`; the files that it names must be there already."""
        data = {"graph_version": GRAPH_VERSION, **asdict(self)}
        with write_atomically(folder / GRAPHS_JSON) as part:
            part.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, model_digest: str) -> GraphLibrary | None:
        """Reads the library of a model; None if there is none that this version understands."""
        try:
            return cls.parse(read_small(folder / GRAPHS_JSON, MAX_JSON_BYTES), model_digest)
        except (OSError, ValueError):
            return None

    @classmethod
    def parse(cls, content: bytes, model_digest: str) -> GraphLibrary | None:
        """Returns the library that a `graphs.json` describes; see `read`."""
        try:
            data: dict[str, Any] = parse_json(content)
            if (data["graph_version"], data["model_digest"]) != (GRAPH_VERSION, model_digest):
                return None
            files = {
                str(name): Stored(str(entry["sha256"]), tuple(map(str, entry["weights"])))
                for name, entry in data["files"].items()
            }
            dims = ModelDims.from_json(data["dims"])
            return cls(model_digest, dims, dict(data["exporter"]), files)
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
            return None

    def sound(self, folder: Path, digest: Callable[[Path], str]) -> GraphLibrary:
        """Returns the library of those graphs that are not damaged."""
        whole = {
            name: entry
            for name, entry in self.files.items()
            if name.endswith(GRAPH_SUFFIX) and not self.damaged(folder, name, digest)
        }
        used = {name for entry in whole.values() for name in entry.weights}
        return replace(self, files=whole | {name: self.files[name] for name in sorted(used)})

    def damaged(self, folder: Path, graph: str, digest: Callable[[Path], str]) -> str:
        """Returns which file of a graph is not what was exported, or an empty string.

        Args:
            graph: The name of the graph's file.
            digest: Returns the SHA-256 of a file's content.
        """
        for name in (graph, *self.files[graph].weights):
            path = folder / name
            if Path(name).name != name or path.is_symlink() or not path.is_file():
                return f"{path} is missing"
            if name not in self.files or digest(path) != self.files[name].sha256:
                return f"{path} is not what was exported"
        return ""
