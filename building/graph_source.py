"""Provides the graphs of a model: shipped with it, kept in the cache, or exported by torch.

A set of engines for one size is made of symbolic graphs without torch. They are compared with torch
once, when they are exported; the graphs of each size are compared with them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from math import prod
from pathlib import Path

from ..durable import link_or_copy, write_atomically
from ..engines.cache import cache_root, locked, remembered_digest
from ..engines.host import missing_export
from ..engines.parity import check_parity
from ..engines.trust import sign, why_untrusted
from ..errors import StreamDiffVSRError, option
from ..graphs.arrays import Array
from ..graphs.golden import fitted, record_golden
from ..graphs.library import GraphLibrary, GraphOptions
from ..graphs.spec import (
    DEFAULT_STEPS,
    GRAPH_VERSION,
    GRAPHS,
    GRAPHS_JSON,
    MAX_JSON_BYTES,
    MIN_SIDE,
    Geometry,
    GraphSet,
    GraphSpec,
    SizeRange,
    format_size,
    onnx_file,
)
from ..reading import read_small

Progress = Callable[[str], None]
Sources = Mapping[str, Path]  # the symbolic graph's file, by the graph's name
SHIPPED = Path(__file__).resolve().parent.parent / "models" / "tiny" / "graphs"
EXACT = "fp32"
# LR sizes at which an export is compared with torch: odd numbers of fours, and sides that are
# padded. Each is multiplied by the flow scale, whose network needs as much.
CHECK_SIZES = ((36, 44), (32, 64), (41, 33))
RUN_TWICE = ("prepare", "features")  # by the recording: once for each of its two frames
PERIOD = 16  # LR pixels: frames whose sides differ by it are padded and halved alike


class GraphSource:
    """The symbolic graphs of one model.

    Args:
        model: The model's folder.
        digest: The digest of its files.
        own: The folder for graphs that are exported; None is one in the user's cache, which is
            searched after the graphs that the built-in model ships.
    """

    def __init__(self, model: Path, digest: str, own: Path | None = None) -> None:
        self._model, self._digest = model, digest
        cached = cache_root() / "graphs" / f"{digest[:16]}-v{GRAPH_VERSION}"
        self._own, self._is_cached = own or cached, own is None
        self._folders = (own,) if own else (SHIPPED, cached)

    def find(self, options: GraphOptions) -> tuple[GraphLibrary, Sources] | None:
        """Returns the graphs if all are there and undamaged, else None."""
        library, found = self._found(options)
        return (library, found) if library and len(found) == len(GRAPHS) else None

    def get(self, options: GraphOptions, progress: Progress) -> tuple[GraphLibrary, Sources]:
        """Returns the graphs; what is missing is exported, and compared with torch.

        Raises:
            StreamDiffVSRError: The packages of the export are missing, the model cannot be read, or
                a graph differs from torch.
        """
        if (found := self.find(options)) is not None:
            return found
        self.require(options)
        with locked(self._own):
            if self.find(options) is None:  # another process may have exported them meanwhile
                if damage := self._damage(options):
                    progress(f"exporting again: {damage}")
                self._export(options, progress)
        found = self.find(options)
        assert found is not None
        return found

    def require(self, options: GraphOptions) -> None:
        """Raises `StreamDiffVSRError` unless the graphs are there or can be exported here."""
        if not (missing := missing_export()) or self.find(options) is not None:
            return
        names = f"not installed: {', '.join(missing)}"
        install = "run pip install 'streamdiffvsr[export]'"
        damage = self._damage(options)
        if str(SHIPPED) in damage:
            raise StreamDiffVSRError(
                "the built-in model's graphs cannot be used", damage, "install streamdiffvsr again"
            )
        if damage:
            raise StreamDiffVSRError(
                "the exported graphs cannot be used",
                f"{damage}; exporting them again needs what is {names}",
                install,
            )
        if GraphLibrary.read(SHIPPED, self._digest) is None:
            raise StreamDiffVSRError(
                "engines of this model cannot be built here",
                f"its graphs have to be exported first, and that needs what is {names}",
                f"{install}, or bring an engine set built elsewhere",
            )
        raise StreamDiffVSRError(
            f"the built-in model has no graphs for {options.describe()}",
            f"it has them in fp32, for 2 and 4 steps; exporting others needs what is {names}",
            f"{install}, or use {option('steps', DEFAULT_STEPS)} and {option('precision', EXACT)}",
        )

    def _found(self, options: GraphOptions) -> tuple[GraphLibrary | None, dict[str, Path]]:
        first: GraphLibrary | None = None
        found: dict[str, Path] = {}
        for folder in self._folders:
            library, _ = self._read(folder)
            if library is None:
                continue
            first = first or library
            for graph, file in options.files().items():
                known = file in library.files
                if known and not library.damaged(folder, file, remembered_digest):
                    found.setdefault(graph, folder / file)
        return first, found

    def _damage(self, options: GraphOptions) -> str:
        """Returns which file of the graphs is damaged or not the user's, or an empty string."""
        read = [(folder, *self._read(folder)) for folder in self._folders]
        if untrusted := next((why for _, _, why in read if why), ""):
            return untrusted
        found = ((folder, library) for folder, library, _ in read)
        damages = (
            library.damaged(folder, file, remembered_digest)
            for folder, library in found
            if library is not None
            for file in options.files().values()
            if file in library.files
        )
        return next(filter(None, damages), "")

    def _read(self, folder: Path) -> tuple[GraphLibrary | None, str]:
        """Returns the library in a folder, if there is one, or why one of the cache is not used."""
        if folder != self._own or not self._is_cached:
            return GraphLibrary.read(folder, self._digest), ""
        path = folder / GRAPHS_JSON
        try:
            content = read_small(path, MAX_JSON_BYTES, follow=False)
        except FileNotFoundError:
            return None, ""
        except (OSError, ValueError) as error:
            return None, f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        if why := why_untrusted(path, content):
            return None, f"the graphs of {folder} are not used: {why}"
        return GraphLibrary.parse(content, self._digest), ""

    def _export(self, options: GraphOptions, progress: Progress) -> None:
        from ..export.graph_folder import export_library, torch_reference
        from ..export.model import load_model

        missing = [graph for graph in GRAPHS if graph not in self._found(options)[1]]
        progress("load weights")
        match = {"on": True, "off": False}.get(options.colour)
        model = load_model(self._model, match_colour=match)
        self._own.mkdir(parents=True, exist_ok=True)
        kept, _ = self._read(self._own)
        library = export_library(
            model,
            self._own,
            options,
            missing,
            kept and kept.sound(self._own, remembered_digest),
            lambda name: progress(f"export {name}"),
        )
        made = {graph: self._own / options.file(graph) for graph in missing}
        if find_spec("onnxruntime") is not None:
            with tempfile.TemporaryDirectory(prefix="streamdiffvsr-") as name:
                recorded = []
                for height, width in CHECK_SIZES:
                    size = (height * options.flow_scale, width * options.flow_scale)
                    progress(f"compare with torch at {size[1]}x{size[0]}")
                    folder = Path(name) / format_size(size)
                    folder.mkdir()
                    geometry = Geometry(size, options.flow_scale)
                    graphs = write_set(library, made, options, geometry, folder)
                    record_golden(torch_reference(model, options, size), graphs.specs(), folder)
                    recorded.append((graphs, folder))
                del model  # engines take as much memory
                for graphs, folder in recorded:
                    _check(graphs, made, folder)
        library.write(self._own)
        if self._is_cached:
            sign(self._own / GRAPHS_JSON)


def _check(graphs: GraphSet, made: Sources, folder: Path) -> None:
    """Raises unless new graphs compute what torch did."""
    from ..engines.onnxruntime_backend import OrtEngine

    for name, spec in graphs.specs().items():
        if name in made:
            check_parity(OrtEngine(folder / onnx_file(name), spec), folder, graphs.precision)


def write_set(
    library: GraphLibrary,
    sources: Sources,
    options: GraphOptions,
    geometry: Geometry,
    folder: Path,
    sizes: SizeRange | None = None,
    stands_for: Geometry | None = None,
) -> GraphSet:
    """Writes the graphs of one geometry, and `graphs.json`, into an existing folder.

    Weights files are linked to the cache's, or copied where that is not possible.

    Args:
        sizes: The sizes that the engines will take; the graphs that depend on it stay symbolic.
        stands_for: A larger geometry, into as many chunks as whose lookup this one's is split.
    """
    from ..engines.specialise import specialise
    from ..graphs.onnx_network import activation_bytes

    graphs = GraphSet(
        geometry=geometry,
        precision=options.precision,
        dims=library.dims_of(options),
        steps=options.steps,
        correlation=options.correlation,
        model_digest=library.model_digest,
        exporter=library.exporter,
        sizes=sizes,
    )
    padded, specs = _padded_specs(graphs), graphs.specs()
    whole = specs if stands_for is None else replace(graphs, geometry=stands_for).specs()
    positions = prod(whole["flow"].inputs[0].shape[2:])
    alive = {}
    for name, source in sources.items():
        target = folder / onnx_file(name)
        for weights in specialise(source, target, padded[name], specs[name], positions):
            link_or_copy(_kept(source.parent / weights), folder / weights)
        alive[name] = activation_bytes(target)
        if sizes is not None and graphs.at(sizes.least).specs()[name] != specs[name]:
            shutil.copyfile(source, target)
    graphs = replace(graphs, activation_bytes=alive)
    graphs.write(folder)
    return graphs


def _kept(weights: Path) -> Path:
    """Returns a weights file in the user's cache: sets must not share one with the package."""
    if weights.parent != SHIPPED:
        return weights
    copy = cache_root() / "graphs" / weights.name
    if not copy.is_file() or remembered_digest(copy) != remembered_digest(weights):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(copy) as part:
            shutil.copyfile(weights, part)
    return copy


def _padded_specs(graphs: GraphSet) -> dict[str, GraphSpec]:
    geometry = graphs.geometry
    return replace(graphs, geometry=replace(geometry, size=geometry.padded)).specs()


def record_reference(graphs: GraphSet, sources: Sources, folder: Path) -> None:
    """Writes what the symbolic float32 graphs compute at a set's size, for the parity gate.

    Args:
        sources: The symbolic graphs in float32.
        folder: The set's folder.
    """
    from ..engines.onnxruntime_backend import open_symbolic

    opened: dict[str, Callable[[Mapping[str, Array]], dict[str, Array]]] = {}

    def run(name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if name not in opened:
            if name not in RUN_TWICE:  # the large ones are opened one at a time
                opened.clear()
            opened[name] = open_symbolic(sources[name])
        return opened[name](inputs)

    record_golden(fitted(run, _padded_specs(graphs), graphs.specs()), graphs.specs(), folder)


def have_one_skeleton(folder: Path, other: Path) -> bool:
    """Returns whether the graphs of two sets run the same operators on the same weights."""
    from ..graphs.onnx_network import skeleton

    return all(
        skeleton(folder / onnx_file(name)) == skeleton(other / onnx_file(name)) for name in GRAPHS
    )


def small_geometry(geometry: Geometry) -> Geometry:
    """Returns a geometry like another one, with sides near the least, to check graphs at.

    Sides keep their remainders, so frames are padded alike and are halved to odd sizes alike.
    """
    least = MIN_SIDE * geometry.flow_scale
    height, width = (min(side, least + side % PERIOD) for side in geometry.size)
    small = Geometry((height, width), geometry.flow_scale, batch=geometry.batch)
    if geometry.tile is None:
        return small
    tile = [
        min(side, full, MIN_SIDE + side % PERIOD)
        for side, full in zip(geometry.tile, small.padded, strict=True)
    ]
    return replace(small, tile=(tile[0], tile[1]))
