"""The options that several commands share, and what they mean for a build.

Knows how users write things; whether a value is possible is for whoever takes it to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from ..building.request import BUILT_IN, BuildRequest
from ..engines.backends import ranked_names
from ..errors import UsageError
from ..graphs.spec import DEFAULT_STEPS, Size, parse_size

R = TypeVar("R")

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


def parse_tile(text: str) -> Size | str | None:
    """The size of tiles as users write it: "auto", "off" or WxH."""
    named: dict[str, str | None] = {"auto": "auto", "off": None}
    return named[text] if text in named else parse_size(text, "--tile")


def parse_capabilities(text: str) -> tuple[int, ...]:
    """Compute capabilities as users write them ("8.6,8.9", or "sm86"), as 86 and 89."""
    parts = [part.strip().lower().removeprefix("sm").replace(".", "") for part in text.split(",")]
    if not all(re.fullmatch(r"\d{2,3}", part) for part in parts):
        raise UsageError(
            f"--compute-capabilities {text!r:.60} is not a list of them", remedy="write 8.6,8.9"
        )
    return tuple(map(int, parts))


def _build_option(kind: Any, *name: str, **attributes: Any) -> Any:
    return Annotated[kind, typer.Option(*name, rich_help_panel=ENGINES, **attributes)]


Device = _build_option(
    str, "--device", metavar="D", help="auto, cpu, cuda, or a GPU by its number: cuda:1."
)
_BACKENDS = ranked_names()
# By the field of `BuildRequest` that each one sets. A new option is a field there, and a line here.
BUILD_OPTIONS: dict[str, Any] = {
    "model": _build_option(
        str | None,
        "--model",
        metavar="M",
        help="tiny (built in), a folder, a Hugging Face repo id, or auto: the released weights "
        "if they can be had, else tiny.",
        show_default=BUILT_IN,
    ),
    "backend": _build_option(
        str,
        "--backend",
        metavar="B",
        help=f"auto, {', '.join(_BACKENDS[:-1])} or {_BACKENDS[-1]}.",
    ),
    "precision": _build_option(
        str | None,
        "--precision",
        metavar="P",
        help="fp32, fp16, or fp8 (TensorRT, compute capability 8.9 and newer).",
        show_default="fp16 on a GPU, else fp32",
    ),
    "device": Device,
    "steps": _build_option(
        int,
        "--steps",
        metavar="N",
        help=f"Denoising steps; the released model is made for {DEFAULT_STEPS}.",
    ),
    "flow_scale": _build_option(
        int | None,
        "--flow-scale",
        metavar="N",
        help="Find the flow at 1/N of the output: 1, 2 or 4.",
        show_default="by size",
    ),
    "tile": _build_option(
        str,
        "--tile",
        metavar="T",
        parser=parse_tile,
        help="auto, off (the whole frame), or WxH of the tiles.",
    ),
    "revision": _build_option(
        str | None,
        "--revision",
        metavar="R",
        help="Branch, tag or commit of a Hugging Face repo.",
    ),
    "color_match": _build_option(
        str,
        "--color-match",
        metavar="WHEN",
        help="Hold the input's colours: on, off, or auto: as the model needs.",
    ),
    "compute_capabilities": _build_option(
        str | None,
        "--compute-capabilities",
        metavar="LIST",
        parser=parse_capabilities,
        help="The GPUs of tensorrt-rtx engines, such as 8.6,8.9.",
        show_default="8.0,8.6,8.9,12.0,12.1",
    ),
    "workspace_mib": _build_option(
        int | None,
        "--workspace",
        metavar="MIB",
        min=1,
        help="The most scratch memory of a layer of a TensorRT engine.",
    ),
    "optimization_level": _build_option(
        int | None,
        "--optimization-level",
        metavar="N",
        help="How long TensorRT looks for quicker engines, 0 to 5.",
        show_default="3",
    ),
}
DEFAULTS = {field.name: field.default for field in fields(BuildRequest)}


def with_build_options(
    *, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command the options of a build in place of its parameter `build`.

    The command receives them as one `BuildRequest`.

    Args:
        without: Fields that the command does not offer, which keep their defaults.
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


def refuse_with_engines(build: BuildRequest, *others: object) -> None:
    """Raise `UsageError` where engines that are given would be built otherwise.

    Args:
        build: Its device is that of the run, too.
        others: Values of more options of a build, which are false where they are not given.
    """
    if build != BuildRequest(device=build.device) or any(others):
        raise UsageError(
            "--engines cannot be mixed with options of a build",
            "those engines are built already",
            "leave out --engines, or those options",
        )


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
