"""`manifest.json`: what an engine set was built from, with what, and how exact it proved to be."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from ..errors import StreamDiffVSRError
from ..graphs.spec import GraphSet
from ..reading import file_digest, parse_json, read_small

MANIFEST = "manifest.json"
FORMAT = 4
MAX_MANIFEST_BYTES = 4 * 2**20
Gate = Literal["passed", "pending"]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the set: its content's SHA-256, and its length."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ParityEntry:
    """One graph's largest difference from the torch module on the recorded inputs.

    `error` is max |engine - torch| over all outputs, each divided by max(1, max |torch|); for a
    quantised output it is the noise-to-signal ratio.
    """

    error: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Target:
    """The dependencies of compiled engines besides their graphs; empty if the ONNX file is run.

    Attributes:
        library: Version of the library; the key's backend names the library.
        gpu: The GPU, or the compute capabilities that an engine was built for: "sm80,sm86".
    """

    library: str = ""
    gpu: str = ""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that distinguishes one engine set from another; a difference in a field rebuilds.

    `library` and `gpu` are those of `Target`. `calibration` is the digest of how an fp8 set was
    quantised, and empty in any other precision. `colour` is "on" or "off" if the build overrides
    the model's config on whether the output takes LR's broad colours, else empty.
    `optimization_level` is None if the library's own was taken, or if it has none. `sizes` is the
    range of sizes "MIN:OPT:MAX" that the engines take, of which `size` is OPT, or empty. `batch` is
    the number of frames that the engines take at once.
    """

    model_digest: str
    size: str
    flow: str
    tile: str
    precision: str
    steps: int
    backend: str
    device: str
    library: str
    gpu: str
    graph_version: int
    calibration: str = ""
    colour: str = ""
    optimization_level: int | None = None
    sizes: str = ""
    batch: int = 1

    @property
    def match_colour(self) -> bool | None:
        """Returns whether to match the output's colours to LR; None: as the model's config says."""
        return {"on": True, "off": False}.get(self.colour)

    def digest(self) -> str:
        """Returns the SHA-256 of all fields, in hexadecimal digits."""
        fields = asdict(self)
        if self.batch == 1:  # as before there were batches, so that interrupted jobs go on
            del fields["batch"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def differs_from(self, other: EngineKey) -> list[str]:
        """Returns the fields that differ, as `name: theirs -> ours`, for the line that says why."""
        old, new = asdict(other), asdict(self)
        for key in (old, new):
            key["model_digest"] = key["model_digest"][:16]
        changed = [name for name in new if old[name] != new[name]]
        return [f"{name}: {_shown(old[name])} -> {_shown(new[name])}" for name in changed]


def _shown(value: object) -> str:
    return "none" if value in (None, "") else str(value)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        driver: The GPU driver of the machine that built a set for a GPU; empty if it had none. It
            decides nothing: engines outlive a driver, and are gated once under each.
        gate: "passed" on the machine that built the set, with the errors in `parity`, or "pending":
            its engines cannot run there, and are checked where they are first opened.
        made_of: For each compiled graph, a digest of all that its engine was made of; an engine of
            another set that was made of the same is the same engine.
    """

    key: EngineKey
    model_name: str
    graphs: GraphSet
    backend_version: str
    package_version: str
    machine: str
    driver: str
    build_seconds: float
    files: Mapping[str, FileEntry]
    gate: Gate
    parity: Mapping[str, ParityEntry]
    made_of: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes it to a set's folder, which does not have its final name yet."""
        data = {
            "format": FORMAT,
            "key": asdict(self.key),
            "model_name": self.model_name,
            "graphs": self.graphs.to_json(),
            "backend_version": self.backend_version,
            "package_version": self.package_version,
            "machine": self.machine,
            "driver": self.driver,
            "build_seconds": round(self.build_seconds, 2),
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "gate": self.gate,
            "parity": {name: asdict(entry) for name, entry in self.parity.items()},
            "made_of": dict(self.made_of),
        }
        (folder / MANIFEST).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Reads an engine set's manifest, whoever wrote it; `trust.trusted_manifest` is for loading.

    Raises:
        StreamDiffVSRError: There is none, or this version does not understand it.
    """
    return parse_manifest(folder, manifest_bytes(folder))


def manifest_bytes(folder: Path) -> bytes:
    """Returns the content of an engine set's manifest file.

    Raises:
        StreamDiffVSRError: There is none, or it is no ordinary file of a manifest's size.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise StreamDiffVSRError(
            f"no engine set {folder}", "there is no such folder", "build it: streamdiffvsr engines"
        )
    try:
        return read_small(path, MAX_MANIFEST_BYTES, follow=False)
    except FileNotFoundError:
        raise StreamDiffVSRError(
            f"{folder} is not an engine set",
            f"it has no {MANIFEST}",
            "build one: streamdiffvsr engines",
        ) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise StreamDiffVSRError(f"cannot read {path}", why, "rebuild the engines") from error


def parse_manifest(folder: Path, content: bytes) -> Manifest:
    """Returns what the content of a manifest file stands for.

    Raises:
        StreamDiffVSRError: This version does not understand it.
    """
    try:
        data = parse_json(content)
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']}, this version reads {FORMAT}")
        return _parse(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"cannot read {folder / MANIFEST}"
        why = f"{type(error).__name__}: {error}"
        raise StreamDiffVSRError(what, why, "rebuild the engines") from error


def _parse(data: Mapping[str, Any]) -> Manifest:
    if data["gate"] not in ("passed", "pending"):
        raise ValueError(f"unknown gate {data['gate']!r}")
    return Manifest(
        key=EngineKey(**data["key"]),
        model_name=str(data["model_name"]),
        graphs=GraphSet.from_json(data["graphs"]),
        backend_version=str(data["backend_version"]),
        package_version=str(data["package_version"]),
        machine=str(data["machine"]),
        driver=str(data["driver"]),
        build_seconds=float(data["build_seconds"]),
        files={str(name): FileEntry(**entry) for name, entry in data["files"].items()},
        gate=cast(Gate, data["gate"]),
        parity={str(name): ParityEntry(**entry) for name, entry in data["parity"].items()},
        made_of={str(k): str(v) for k, v in data.get("made_of", {}).items()},
    )


def file_entry(path: Path) -> FileEntry:
    """Returns the digest and length of a file."""
    return FileEntry(file_digest(path), path.stat().st_size)


def odd_file(folder: Path) -> str:
    """Returns which entry of a set's folder is not an ordinary file of its own, and why, or ""."""
    with os.scandir(folder) as entries:
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                return f"{entry.name} is a link"
            if not stat.S_ISREG(mode):
                return f"{entry.name} is no ordinary file"
    return ""


def verify_files(
    folder: Path, manifest: Manifest, digest: Callable[[Path], str] = file_digest
) -> None:
    """Checks every file of the set against its digest, before anything is loaded from it.

    Args:
        digest: Returns the SHA-256 of a file's content; it must read files that are loaded next.

    Raises:
        StreamDiffVSRError: A file is missing, cut or changed, or lies outside the folder.
    """
    for name, entry in manifest.files.items():
        path = folder / name
        if Path(name).name != name or path.is_symlink():
            raise StreamDiffVSRError(f"{folder / MANIFEST} names {name}", "that is not in the set")
        if not path.is_file():
            why = "the file is missing"
        elif path.stat().st_size != entry.bytes:
            why = f"it has {path.stat().st_size:,} bytes instead of {entry.bytes:,}"
        elif digest(path) != entry.sha256:
            why = "its content is not what was built"
        else:
            continue
        raise StreamDiffVSRError(f"{path} is damaged", why, "rebuild the engines")
