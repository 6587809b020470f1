"""Defines the options that several commands share, and turns those of a build into a request.

Only the notation of values is checked here; the code that uses a value checks what it means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand

from ..building.request import BUILT_IN, BuildRequest
from ..engines.backends import ranked_names
from ..errors import StreamDiffVSRError, UsageError
from ..graphs.spec import DEFAULT_STEPS, Size, SizeRange, parse_size

R = TypeVar("R")

MAX_SEED = 2**63 - 1

DEFAULT_SIZE = "320x180"
ENGINES = "Model and engines"  # the help panel of the options of a build


def default(words: str) -> str:
    """Returns the end of a help line that describes a default in words.

    It looks like Typer's note of a literal default; its own `show_default` adds parentheses.
    """
    return rf" [dim]\[default: {words}][/]"


def flag(name: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """Returns an option without a value."""
    return typer.Option(name, metavar="", help=help, rich_help_panel=panel, **more)


Engines = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of an engine set to use; of the other options in this group only --device "
        "then has a meaning." + default("found in the cache, or built"),
        rich_help_panel=ENGINES,
    ),
]
MaxFrames = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Stop after N output frames." + default("no limit")),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(metavar="S", min=0.1, help="Stop after S seconds." + default("no limit")),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help="Size of the input frames in pixels; repeat for more sizes." + default(DEFAULT_SIZE),
    ),
]
Batch = Annotated[
    int,
    typer.Option(
        "--batch",
        metavar="N",
        help="Tiles that the engines refine at once: 1, 2 or 4. Batches are for a GPU, and for "
        "tiles of one square size, such as --size 48x48.",
    ),
]
EnginesOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Folder for the engines; with several sizes, each gets a subfolder."
        + default("the user's cache"),
    ),
]
DemoOut = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder for the clips and the comparison.")
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        max=MAX_SEED,
        help="Seed of the model's random noise; the same frames and seed give the same output.",
    ),
]
Json = Annotated[
    bool, flag("--json", "Print the result, or the error, as one JSON object on the last line.")
]
JsonLines = Annotated[
    bool,
    flag(
        "--json",
        "Print JSON lines: messages, a status every second, and the result or the error last."
        + default("on if stdout is not a terminal"),
    ),
]
JsonFile = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write the result as JSON to this file; - is stdout, and replaces the table.",
    ),
]


def parse_sizes(texts: Sequence[str] | None) -> list[Size]:
    """Returns the sizes (h, w) given with `--size`, each once, or the default size."""
    return list(dict.fromkeys(parse_size(text, "--size") for text in texts or [DEFAULT_SIZE]))


def parse_tile(text: str) -> Size | str | None:
    """Returns the size (h, w) of tiles written as WxH, "auto", or None for "off"."""
    named: dict[str, str | None] = {"auto": "auto", "off": None}
    return named[text] if text in named else parse_size(text, "--tile")


def parse_capabilities(text: str) -> tuple[int, ...]:
    """Returns compute capabilities written as "8.6,8.9" or "sm86,sm89": 86 and 89."""
    parts = [part.strip().lower().removeprefix("sm").replace(".", "") for part in text.split(",")]
    if not all(re.fullmatch(r"\d{2,3}", part) for part in parts):
        raise UsageError(
            f"--compute-capabilities {text!r:.60} is not a list of them", remedy="write 8.6,8.9"
        )
    return tuple(map(int, parts))


def parse_range(text: str) -> SizeRange:
    """Returns the range of sizes written as MIN:OPT:MAX, each WxH."""
    parts = text.split(":")
    if len(parts) != 3:
        raise UsageError(
            f"--profile {text!r:.60} is not a range of sizes",
            remedy="write MIN:OPT:MAX, such as 160x96:320x180:640x360",
        )
    least, usual, most = (parse_size(part, "--profile") for part in parts)
    return SizeRange(least, usual, most)


def _build_option(kind: Any, *name: str, **attributes: Any) -> Any:
    return Annotated[kind, typer.Option(*name, rich_help_panel=ENGINES, **attributes)]


Device = _build_option(
    str,
    "--device",
    metavar="D",
    help="Where the model runs: cpu, cuda (the first GPU), a GPU by its number in doctor's list "
    "(cuda:1), or auto (the device of existing engines; for new ones a GPU if one works, else "
    "the CPU).",
)
_BACKENDS = ranked_names()
# By the field of `BuildRequest` that the option sets. A new option is a field there and an entry
# here.
BUILD_OPTIONS: dict[str, Any] = {
    "model": _build_option(
        str | None,
        "--model",
        metavar="M",
        help="Model: tiny (built in), a folder, a Hugging Face repository (owner/name), or auto "
        "(the released weights if they are here or can be fetched, else tiny)." + default(BUILT_IN),
    ),
    "backend": _build_option(
        str,
        "--backend",
        metavar="B",
        help=f"Library that runs the model: {', '.join(_BACKENDS)}, or auto (the best that works "
        "here).",
    ),
    "precision": _build_option(
        str | None,
        "--precision",
        metavar="P",
        help="Number format of the engines: fp32, fp16, or fp8 (only with tensorrt or "
        "tensorrt-rtx, and on GPUs of compute capability 8.9 or newer)."
        + default("fp16 on a GPU, else fp32"),
    ),
    "device": Device,
    "steps": _build_option(
        int,
        "--steps",
        metavar="N",
        help=f"Denoising steps per frame, 1 to 50; the released model is made for {DEFAULT_STEPS}.",
    ),
    "flow_scale": _build_option(
        int | None,
        "--flow-scale",
        metavar="N",
        help="Compute the optical flow at 1/N of the output size: 1 (exact), 2 or 4 (faster)."
        + default("by model and size"),
    ),
    "tile": _build_option(
        str,
        "--tile",
        metavar="T",
        parser=parse_tile,
        help="Denoise and decode in tiles, to save memory: auto (only frames of more than 640x360 "
        "pixels), off, or the tiles' size WxH in input pixels.",
    ),
    "revision": _build_option(
        str | None,
        "--revision",
        metavar="R",
        help="Branch, tag or commit of a model from Hugging Face."
        + default("the repository's default branch"),
    ),
    "color_match": _build_option(
        str,
        "--color-match",
        metavar="WHEN",
        help="Correct the colours of broad areas of the output to those of the input: on, off, or "
        "auto (as the model's config says).",
    ),
    "compute_capabilities": _build_option(
        str | None,
        "--compute-capabilities",
        metavar="LIST",
        parser=parse_capabilities,
        help="Compute capabilities of the GPUs that tensorrt-rtx engines are built for."
        + default("8.0,8.6,8.9,12.0,12.1"),
    ),
    "workspace_mib": _build_option(
        int | None,
        "--workspace",
        metavar="MIB",
        min=1,
        help="Limit the scratch memory of each layer of a TensorRT engine, in MiB."
        + default("TensorRT's own limit"),
    ),
    "optimization_level": _build_option(
        int | None,
        "--optimization-level",
        metavar="N",
        help="Effort of TensorRT's search for faster engines, from 0 (the shortest build) to 5."
        + default("3"),
    ),
    "profile": _build_option(
        str | None,
        "--profile",
        metavar="MIN:OPT:MAX",
        parser=parse_range,
        help="Sizes of the input frames that TensorRT engines take, from MIN to MAX and tuned for "
        "OPT, each WxH with sides that are multiples of 4." + default("one size"),
    ),
}
DEFAULTS = {field.name: field.default for field in fields(BuildRequest)}


def with_build_options(
    *, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Returns a decorator that replaces a command's parameter `build` by the options of a build.

    The command receives their values as one `BuildRequest`.

    Args:
        without: Fields of `BuildRequest` that the command does not offer; they keep their defaults.
    """
    offered = {name: kind for name, kind in BUILD_OPTIONS.items() if name not in without}

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[Parameter] = []
        for parameter in signature(command).parameters.values():
            if parameter.name == "build":
                parameters += [
                    Parameter(
                        name,
                        Parameter.POSITIONAL_OR_KEYWORD,
                        default=DEFAULTS[name],
                        annotation=kind,
                    )
                    for name, kind in offered.items()
                ]
            else:
                parameters.append(parameter.replace(annotation=hints[parameter.name]))

        @wraps(command)
        def run(**given: Any) -> R:
            build = BuildRequest(**{name: given.pop(name) for name in offered})
            return command(**given, build=build)

        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


class Command(TyperCommand):
    """A command whose usage line puts in brackets only the arguments that have a default."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Returns the words of the usage line after the command's name."""
        pieces = [self.options_metavar or ""]
        for each in self.params:
            if isinstance(each, TyperArgument):
                name = f"{each.metavar or each.name}{'...' if each.nargs != 1 else ''}"
                pieces.append(f"[{name}]" if each.default else name)
        return pieces


def refuse_with_engines(build: BuildRequest, *others: object) -> None:
    """Raises `UsageError` if options of a build are given together with `--engines`.

    Args:
        build: The options of a build; `device` is allowed, since it also selects where to run.
        others: The values of further options of a build; false if not given.
    """
    if build != BuildRequest(device=build.device) or any(others):
        raise UsageError(
            "--engines cannot be mixed with options of a build",
            "those engines are built already",
            "leave out --engines, or those options",
        )


def make_folder(folder: Path, remedy: str) -> None:
    """Creates a folder for outputs; raises `StreamDiffVSRError` with the remedy if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise StreamDiffVSRError(f"cannot make the folder {str(folder)!r}", why, remedy) from error


def described(folder: Path, device: str | None = None) -> dict[str, Any]:
    """Returns the entry of an engine set in the output of `--json`.

    Args:
        device: The device whose free memory is compared with what the set needs.
    """
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
        "batch": key.batch,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "memory": check_memory_fit(folder, device).to_json(),
        "gate": manifest.gate,
        "parity_error": max((entry.error for entry in manifest.parity.values()), default=None),
        "build_seconds": manifest.build_seconds,
    }
