"""Finds an ffmpeg program that has what libav here lacks: SRT, and the muxer of WHIP."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache

from ...errors import StreamDiffVSRError

SRT, WHIP = "SRT", "WHIP"
_ASKED = {SRT: ("-protocols", "srt"), WHIP: ("-muxers", "whip")}
_ASK_S = 20.0  # a machine that reads 170 MB of program from a slow disk
_INSTALL = "install streamdiffvsr[whip], which brings an ffmpeg that has it"
# No ffmpeg that heeds its presets accepts this option of its muxer.
_WRONG_PRESET = "mpegts_flags=none_of_that_name\n"
_PRESET_TRIAL = "-v quiet -nostdin -f lavfi -i nullsrc=s=16x16:d=0.04 -fpre {} -f mpegts -y -"


def ffmpeg_with(part: str, failure: str, *, preset: bool = False) -> str:
    """Returns the path of an ffmpeg program: imageio-ffmpeg's, else the one on PATH.

    Args:
        part: ``SRT`` or ``WHIP``.
        failure: The beginning of an error message.
        preset: Whether it must take options of an output from a file, so that nobody reads a
            password in its arguments.

    Raises:
        StreamDiffVSRError: There is none, or none that can do this.
    """
    if sys.platform == "win32":
        raise StreamDiffVSRError(failure, f"{part} is not supported on Windows")
    able = [program for program in _programs() if _has(program, *_ASKED[part])]
    if not able:
        raise StreamDiffVSRError(failure, f"libav is built without {part} here", _INSTALL)
    if not preset:
        return able[0]
    for program in able:
        if _heeds_presets(program):
            return program
    why = f"{able[0]} takes a passphrase or stream id as an argument only, which all users can read"
    raise StreamDiffVSRError(
        failure, why, "put an ffmpeg that reads them from a file, such as 5.1, on the PATH as well"
    )


def _programs() -> Iterator[str]:
    try:
        import imageio_ffmpeg
    except ImportError:
        pass
    else:
        with contextlib.suppress(RuntimeError):  # a wheel without a program
            yield imageio_ffmpeg.get_ffmpeg_exe()
    if found := shutil.which("ffmpeg"):
        yield found


@cache
def _has(program: str, question: str, name: str) -> bool:
    try:
        answer = subprocess.run(
            [program, "-hide_banner", question],
            capture_output=True,
            timeout=_ASK_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return any(name in line.split() for line in answer.stdout.decode(errors="replace").splitlines())


@cache
def _heeds_presets(program: str) -> bool:
    """Returns whether options in a preset file have an effect; ffmpeg 9 ignores those of muxers."""
    with tempfile.NamedTemporaryFile("w", suffix=".ffpreset") as file:
        file.write(_WRONG_PRESET)
        file.flush()
        try:
            done = subprocess.run(
                [program, *_PRESET_TRIAL.replace("{}", os.fspath(file.name)).split()],
                capture_output=True,
                timeout=_ASK_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode != 0
