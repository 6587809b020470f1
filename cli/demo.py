"""Runs the demo: upscales the built-in clip with the built-in model, without a network.

The clip comes with the true HR picture of one of its frames. That frame is drawn side by side:
enlarged by bicubic, upscaled by the model, and as it should be.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .._about import CLIP, TRUTH, TRUTH_FRAME
from ..building.request import BuildRequest
from ..errors import StreamDiffVSRError
from .options import make_folder

if TYPE_CHECKING:
    from ..runtime.files.job import FrameUpscaler
    from ..runtime.frame_stream import Image, S, Upscaled
    from ..runtime.state import StreamState

CROP = (212, 318, 88, 160)  # top, left, height, width in HR pixels: gloss and spoon


def run_demo(out: Path, device: str = "auto", *, quiet: bool = False) -> dict[str, Any]:
    """Runs the demo; the clips and the comparison go to `out`, the engines to the user's cache.

    Returns:
        What `--json` prints.

    Raises:
        StreamDiffVSRError: A file cannot be read or written, or the engines cannot be built.
    """
    from ..building.provider import EngineProvider
    from ..runtime.files import compare  # first: its library may be missing
    from ..runtime.media.reader import probe
    from .engines import build_engines

    started = time.monotonic()
    truth = compare.read_picture(_asset(TRUTH))
    provider = EngineProvider(BuildRequest(device=device))
    device = provider.choice.device  # refused before anything is written
    clip = _copied_clip(out)
    engines = build_engines(provider, probe(clip).size, quiet=quiet)
    sheet = out / "side_by_side.png"
    psnr: dict[str, float] = {}

    def draw(before: Image, after: Image) -> None:
        psnr.update(_compare(before, after, truth, sheet))
        if not quiet:
            scores = "PSNR {ours:.2f} dB, bicubic {bicubic:.2f} dB".format(**psnr)
            typer.echo(f"look at: {sheet}  ({scores})")

    report = _upscale(clip, out / "clip_4x.mp4", engines, device, draw, quiet=quiet)
    result = {
        **report,
        "input": str(clip),
        "engines": str(engines),
        "side_by_side": str(sheet),
        "psnr": psnr,
        "total_seconds": round(time.monotonic() - started, 2),
    }
    if not quiet:
        _show(result)
    return result


class Watched:
    """An upscaler that shows one frame before and after upscaling, as soon as it is made.

    Unlike the same frame in the output file, it shows the model without the loss of x264.

    Args:
        upscaler: The upscaler that does the work.
        index: The index of the frame to show.
        show: Receives the input frame, (h, w, 3), and the output frame, (4h, 4w, 3); the latter is
            valid during the call only.
    """

    def __init__(
        self, upscaler: FrameUpscaler, index: int, show: Callable[[Image, Image], None]
    ) -> None:
        self._upscaler, self._index, self._show = upscaler, index, show
        self.size, self.identity = upscaler.size, upscaler.identity

    def stream_frames(
        self, frames: Iterable[S], state: StreamState | None = None
    ) -> Generator[Upscaled[S], None, None]:
        """Upscales frames; see `Upscaler.stream_frames`."""
        before: list[Image] = []

        def watched() -> Iterator[S]:
            for index, frame in enumerate(frames):
                if index == self._index:
                    before.append(frame.image.copy())
                yield frame

        with closing(self._upscaler.stream_frames(watched(), state)) as outputs:
            for index, out in enumerate(outputs):
                if index == self._index:
                    self._show(before.pop(), out.image)
                yield out


def _compare(before: Image, after: Image, truth: Image, sheet: Path) -> dict[str, float]:
    """Draws the sheet and returns the PSNR of each picture in dB."""
    from ..graphs.spec import SCALE
    from ..runtime.files.compare import Box, Panel, bicubic, contact_sheet, psnr, write_png

    pictures = {"bicubic": bicubic(before, SCALE), "ours": after}
    scores = {name: round(psnr(picture, truth), 2) for name, picture in pictures.items()}
    panels = [
        Panel(
            "Input, enlarged by bicubic", pictures["bicubic"], f"PSNR {scores['bicubic']:.2f} dB"
        ),
        Panel("Ours", pictures["ours"], f"PSNR {scores['ours']:.2f} dB"),
        Panel("Truth", truth),
    ]
    write_png(sheet, contact_sheet(panels, Box(*CROP)))
    return scores


def _show(result: dict[str, Any]) -> None:
    typer.echo("input:   {input}  ({frames} frames, {input_size})".format(**result))
    made = f"{result['output_size']}, with sound; made at {result['fps']:.2f} frames/s"
    typer.echo(f"output:  {result['output']}  ({made})")
    typer.echo("engines: {engines}  (used again next time)".format(**result))
    typer.echo(f"took {result['total_seconds']:.0f} s")


def _upscale(
    clip: Path,
    output: Path,
    engines: Path,
    device: str,
    show: Callable[[Image, Image], None],
    *,
    quiet: bool,
) -> dict[str, Any]:
    from ..runtime.files.upscale import FileOptions, upscale_file
    from ..runtime.upscaler import load
    from .engines import report_memory
    from .progress import progress_bar

    if not quiet:
        report_memory(engines, device)
        typer.echo(f"upscaling {clip}", err=True)
    watched = Watched(load(engines, device), TRUTH_FRAME, show)
    with progress_bar(output.name, enabled=not quiet) as progress:
        report = upscale_file(clip, output, watched, FileOptions(overwrite=True), progress=progress)
    return report.to_json()


def _asset(path: Path) -> Path:
    if not path.is_file():
        raise StreamDiffVSRError(
            "the demo's clip is not here",
            f"{path} is missing from this installation",
            "install from a complete checkout",
        )
    return path


def _copied_clip(out: Path) -> Path:
    """Copies the clip next to its output and returns the copy."""
    copy = out / CLIP.name
    source = _asset(CLIP)
    make_folder(out, "use --out")
    try:
        shutil.copyfile(source, copy)
    except OSError as error:
        raise StreamDiffVSRError(
            f"could not write {str(copy)!r}", error.strerror or str(error), "use --out"
        ) from error
    return copy
