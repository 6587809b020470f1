"""The demo: a clip, a model, its engines and the clip at 4x, from nothing and without a network.

Where the built-in checkpoint is not there yet, the model is one of the same shape with random
weights, and every line about the result says so.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import typer

from .console import build_progress
from .errors import StreamDiffVSRError

FRAMES = 16
UNTRAINED = (
    "THE WEIGHTS ARE UNTRAINED: the picture is noise. This shows that the machinery works on this "
    "machine, not what Stream-DiffVSR looks like."
)


def run_demo(out: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Run it all; the clips go to `out`, model and engines to the user's cache.

    Returns:
        What `--json` prints.

    Raises:
        StreamDiffVSRError: One line: what could not be done, why, what to do.
    """
    from .runtime.media.sample_clip import write_sample_clip

    started = time.monotonic()
    clip = write_sample_clip(_folder(out) / "clip.mp4", frames=FRAMES)
    model, trained = _model()
    if not trained and not quiet:
        typer.echo(UNTRAINED)
    name = "clip_4x.mp4" if trained else "clip_4x_untrained.mp4"
    engines = _build(model, clip, quiet=quiet)
    report = _upscale(clip, out / name, engines, quiet=quiet)
    seconds = round(time.monotonic() - started, 2)
    result = {
        **report,
        "input": str(clip),
        "engines": str(engines),
        "trained": trained,
        "total_seconds": seconds,
    }
    if not quiet:
        _tell(result)
    return result


def _tell(result: dict[str, Any]) -> None:
    typer.echo("input:   {input}  ({frames} frames, {input_size})".format(**result))
    typer.echo("output:  {output}  ({output_size}, {fps} fps, with sound)".format(**result))
    typer.echo("engines: {engines}  (used again next time)".format(**result))
    last = "" if result["trained"] else "; as said, the weights are untrained"
    typer.echo(f"took {result['total_seconds']:.0f} s{last}")


def _build(model: str, clip: Path, *, quiet: bool) -> Path:
    from .builder import build
    from .host import choose
    from .runtime.media.probe import probe

    backend, precision, device = choose()
    size = probe(clip).size
    with build_progress(enabled=not quiet) as progress:
        return build(
            model,
            size=size,
            backend=backend,
            precision=precision,
            device=device,
            progress=progress,
        )


def _upscale(clip: Path, output: Path, engines: Path, *, quiet: bool) -> dict[str, Any]:
    from .runtime.files.progress import progress_bar
    from .runtime.files.upscale import upscale_file
    from .runtime.upscaler import load

    with progress_bar(output.name, enabled=not quiet) as progress:
        report = upscale_file(clip, output, load(engines), overwrite=True, progress=progress)
    return report.to_json()


def _folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StreamDiffVSRError(
            f"cannot make the folder {str(out)!r}", error.strerror or str(error), "use --out"
        ) from error
    return out


def _model() -> tuple[str, bool]:
    """The built-in model, or a random one of its shape in the cache; whether it is trained."""
    from .engines.cache import cache_root, locked
    from .export.hub import BUILT_IN, BUILT_IN_FOLDER
    from .host import require_export

    if BUILT_IN_FOLDER.is_dir():
        return BUILT_IN, True
    require_export()
    from .export.random_model import write_random_model

    folder = cache_root() / "models" / "untrained-tiny"
    with locked(folder):
        if not folder.is_dir():
            part = Path(tempfile.mkdtemp(prefix=".untrained-tiny-", dir=folder.parent))
            try:
                write_random_model(part, preset="tiny", seed=0)
                os.replace(part, folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return str(folder), False
