"""A video file written from RGB frames, complete or not at all.

Encoding runs in a child process, one frame behind whoever writes. The file grows under a hidden
name in the folder of the output and takes its final name only when it is whole and on the disk. It
knows nothing of the upscaler.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import StreamDiffVSRError
from ..processes.child import DEADLINE_S, Child
from ..processes.messages import pack
from .encoders import H264_CONTAINERS, VideoFormat, options
from .formats import check_size, encoder_arguments, memory_bytes
from .info import VideoInfo
from .preflight import check_output
from .reader import probe
from .writer import ClosesOrAborts

_SAVE_S = 600.0  # bringing gigabytes to a slow disk takes minutes


class FileSink(ClosesOrAborts):
    """A video file that takes frames one by one: H.264, unless told otherwise.

    Times are kept exactly where the container can: .mp4 and .mov keep those of frames, and of sound
    to a sample; .mkv rounds to 1/1000 s and .ts to 1/90000 s, and both move a start before zero to
    zero, sound and picture together.
    Sound packets are copied unchanged. Colour tags, pixel aspect and metadata are the source's;
    see ``colour`` for what is not tagged there.

    Use it as a context manager: leaving it normally finishes the file; leaving it by any exception,
    Ctrl-C included, removes what was written.

    Args:
        path: The output; its ending chooses the container.
        size: (H, W) of the frames, both even.
        like: The source, or its path: where time base, colour, pixel aspect, sound and metadata
            come from.
        time_base: Seconds per tick to store; the source's if None. One of the two must be given.
        overwrite: Replace an existing file.
        crf: x264's quality, 0 (lossless) to 51; 17 looks like its input.
        preset: x264's speed, "ultrafast" to "veryslow".
        format: How the picture is encoded, instead of ``crf`` and ``preset``.
        copy_sound: Whether the source's sound is copied.
        deadline_s: The longest the encoder may take for one frame.
        timed: Note when the encoder works; of short files, as it is kept for every frame.

    Attributes:
        busy: From when to when each frame was encoded and written, in seconds of
            `time.perf_counter`, which processes share; known when the file is closed.

    Raises:
        StreamDiffVSRError: As :func:`check_output`; the size cannot be encoded; the container
            cannot hold the sound.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        size: tuple[int, int],
        like: VideoInfo | str | PathLike[str] | None = None,
        time_base: Fraction | None = None,
        overwrite: bool = False,
        crf: int = 17,
        preset: str = "medium",
        format: VideoFormat | None = None,
        copy_sound: bool = True,
        deadline_s: float = DEADLINE_S,
        timed: bool = False,
    ) -> None:
        info = like if isinstance(like, VideoInfo) or like is None else probe(like)
        self.path, self.size = Path(path), size
        self._failure = f"could not write {str(path)!r}"
        self._overwrite = overwrite
        self._format = format or _h264(self.path, crf, preset, self._failure)
        self._check(info)
        self.time_base = time_base or (info.time_base if info else None)
        if self.time_base is None:
            raise ValueError("FileSink needs `like` or `time_base`")
        # Absolute: the folder of a relative one may be left while this runs.
        self._final = self.path.absolute()
        hidden = f".streamdiffvsr-{secrets.token_hex(6)}{self.path.suffix}"
        self._part = self._final.with_name(hidden)
        self._closed = False
        self.frames = self.retimed = self.audio_streams = 0
        self.busy: list[tuple[float, float]] = []
        self._dtype = np.dtype(np.uint16 if self._format.deep else np.uint8)
        arguments = encoder_arguments(size, self.time_base, info, self._format) | {
            "part": str(self._part),
            "container": self._format.container,
            "codec": self._format.codec,
            "source": str(info.path.absolute()) if info and info.holds_more else None,
            "copy_sound": copy_sound,
            "timed": timed,
        }
        self._start(arguments, deadline_s)

    def write(
        self,
        image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
        pts: int,
        time_base: Fraction | None = None,
        duration: int | None = None,
    ) -> None:
        """Encode one frame; the array may be reused when it returns.

        Args:
            image: (H, W, 3) RGB: uint8 [0, 255], or uint16 [0, 65535] where the format is deep.
            pts: When it is shown. One that is not later than the last is moved one tick behind it
                and counted in ``retimed``.
            time_base: Seconds per tick of ``pts`` and ``duration``; the sink's own if None.
            duration: How long it is shown, in ticks; matters for the last frame.

        Raises:
            ValueError: The image has another shape or type.
            StreamDiffVSRError: The disk is full, or the encoder failed or took too long.
        """
        if image.shape != (*self.size, 3) or image.dtype != self._dtype:
            raise ValueError(
                f"{image.shape = }, {image.dtype = }, not {self._dtype} {(*self.size, 3)}"
            )
        header = {
            "kind": "frame",
            "pts": pts,
            "time_base": pack(time_base),
            "duration": duration,
        }
        try:
            self._child.send(header, np.ascontiguousarray(image).data.cast("B"))
        except BaseException:
            self.abort()
            raise
        self.frames += 1

    def close(self, *, cut_sound: bool = False) -> None:
        """Finish the file and give it its name. Does nothing after the first time.

        Args:
            cut_sound: End the sound with the last frame instead of copying it to its end.

        Raises:
            StreamDiffVSRError: Nothing was written, the disk is full, or the output has come into
                being meanwhile; nothing is left behind then.
        """
        if self._closed:
            return
        try:
            if self.frames == 0:
                raise StreamDiffVSRError(self._failure, "there was no frame to write")
            self._child.send({"kind": "end", "cut_sound": cut_sound})
            told: dict[str, Any] = {"kind": "beat"}
            while told["kind"] != "done":
                told, _ = self._child.receive(_SAVE_S if told["kind"] == "saving" else None)
            self.retimed = told["retimed"]
            self.busy = [(started, ended) for started, ended in told["busy"] or ()]
            self._publish()
        except BaseException:
            self.abort()
            raise
        self._closed = True
        self._child.close()

    def abort(self) -> None:
        """Stop encoding and remove what was written. Safe at any point, and twice."""
        self._closed = True
        self._child.close()
        with contextlib.suppress(OSError):
            self._part.unlink()

    def _check(self, info: VideoInfo | None) -> None:
        source = info.path if info else None
        check_output(self.path, source=source, overwrite=self._overwrite)
        if self.path.is_dir():  # a place for images, which are none of this
            raise StreamDiffVSRError(self._failure, "it exists and is not a plain file")
        check_size(self.size, self._format.codec, self._failure)

    def _publish(self) -> None:
        if not self._overwrite and self._final.exists():
            raise StreamDiffVSRError(
                self._failure, "a file of that name has come into being meanwhile"
            )
        try:
            os.replace(self._part, self._final)
        except OSError as error:
            raise StreamDiffVSRError(self._failure, error.strerror or str(error)) from error

    def _start(self, arguments: dict[str, Any], deadline_s: float) -> None:
        self._child = Child(
            "runtime.media.sink_child",
            arguments,
            failure=self._failure,
            deadline_s=deadline_s,
            memory_bytes=memory_bytes(self.size, self._format),
        )
        try:
            ready, _ = self._child.receive()
        except BaseException:
            self.abort()
            raise
        self.audio_streams = ready["audio_streams"]


def _h264(path: Path, crf: int, preset: str, failure: str) -> VideoFormat:
    container = H264_CONTAINERS.get(path.suffix.lower())
    if container is None:
        why = f"no H.264 file is written with the ending {path.suffix!r}"
        raise StreamDiffVSRError(failure, why, f"use one of {', '.join(H264_CONTAINERS)}")
    chosen = options("libx264", crf=crf, preset=preset)
    return VideoFormat(container, "h264", "libx264", "yuv420p", chosen, deep=False)
