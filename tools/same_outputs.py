"""Compares the output of this checkout with that of another revision, bit for bit.

``python tools/same_outputs.py REVISION`` runs the demo, the recorded model and ten generated clips
with both, each in a process of its own with its own engines, and prints what differs. Pixels are
compared decoded, sound as packets, so that what a muxer writes around them does not count.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZE = (48, 64)  # (h, w), also of the recorded model


def main(revision: str) -> int:
    """Prints what differs; returns 0 if nothing does."""
    with tempfile.TemporaryDirectory() as name, _worktree(revision, Path(name)) as base:
        before, after = (_digests_of(tree, Path(name)) for tree in (base, ROOT))
    different = [key for key in before | after if before.get(key) != after.get(key)]
    for key in different:
        print(f"{key}: {before.get(key)} became {after.get(key)}")
    print(f"{len(before)} outputs of {revision} compared, {len(different)} differ")
    return 1 if different else 0


@contextmanager
def _worktree(revision: str, folder: Path) -> Iterator[Path]:
    tree = folder / "base"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def _digests_of(tree: Path, folder: Path) -> dict[str, str]:
    work = Path(tempfile.mkdtemp(dir=folder))
    package = work / "package"
    package.mkdir()
    (package / "streamdiffvsr").symlink_to(tree, target_is_directory=True)
    environment = os.environ | {"PYTHONPATH": str(package), "STREAMDIFFVSR_CACHE": str(work / "c")}
    command = [sys.executable, str(Path(__file__).resolve()), "--digests", str(work)]
    subprocess.run(command, check=True, env=environment, cwd=work, stdout=sys.stderr)
    found: dict[str, str] = json.loads((work / "digests.json").read_text())
    return found


def write_digests(work: Path) -> None:
    """Writes the digest of every output to ``digests.json``."""
    found = _recorded_model(work)
    _run("demo", "--out", "demo")
    found |= {f"demo {p.name}": _decoded(p) for p in sorted((work / "demo").glob("*.mkv"))}
    found |= {f"demo {p.name}": _decoded(p) for p in sorted((work / "demo").glob("*.mp4"))}
    for name, make in CLIPS.items():
        source = make(work)
        output = work / f"{name}_out{'.mov' if name == 'prores' else '.mkv'}"
        codec = ["--codec", "prores"] if name == "prores" else []
        _run("upscale", str(source), str(output), *codec)
        found[f"clip {name}"] = _decoded(output)
    (work / "digests.json").write_text(json.dumps(found, indent=1))


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "streamdiffvsr.cli", *arguments], check=True)


def _recorded_model(work: Path) -> dict[str, str]:
    """Returns the digests of five frames of the recorded model, and of the state after each."""
    import numpy as np

    import streamdiffvsr
    from streamdiffvsr.tests.recorded_files import MODEL, unpack

    model = unpack(work / "recorded") / MODEL
    engines = streamdiffvsr.build(
        model, size=SIZE, backend="onnxruntime", precision="fp32", out=work / "engines"
    )
    upscaler = streamdiffvsr.load(engines)
    state = upscaler.initial_state(seed=3)
    found = {}
    for number in range(5):
        image, state = upscaler.step(_picture(number, SIZE), state)
        assert state.previous_hr is not None
        for name, array in (("image", image), ("state", state.previous_hr)):
            data = np.ascontiguousarray(array).tobytes()
            found[f"recorded {name} {number}"] = hashlib.sha256(data).hexdigest()
    return found


def _picture(number: int, size: tuple[int, int]) -> Any:
    """Draws a moving gradient with an edge, (h, w, 3) uint8."""
    import numpy as np

    rows, columns = np.mgrid[: size[0], : size[1]]
    red = (rows * 4 + columns * 2 + number * 9) % 256
    green = np.where((rows + columns + 2 * number) % 32 < 16, 40, 200)
    blue = (columns * 3 + number * 5) % 256
    return np.stack([red, green, blue], 2).astype(np.uint8)


def _clip(
    suffix: str,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    sound: str = "",
    uneven: bool = False,
    options: dict[str, str] | None = None,
) -> Callable[[Path], Path]:
    def make(work: Path) -> Path:
        import av

        path = work / f"{codec}_{pixels}_{sound}_{uneven}_{len(options or {})}{suffix}"
        with av.open(str(path), "w") as output:
            video: Any = output.add_stream(codec, rate=25, options=options or {})
            video.height, video.width, video.pix_fmt = *SIZE, pixels
            audio: Any = output.add_stream(sound, rate=48000) if sound else None
            for number in range(12):
                frame = av.VideoFrame.from_ndarray(_picture(number, SIZE), format="rgb24")
                frame = frame.reformat(format=pixels, threads=1)
                frame.pts = number * number if uneven else number
                frame.time_base = Fraction(1, 25)
                output.mux(video.encode(frame))
            output.mux(video.encode(None))
            if audio:
                _add_tone(output, audio)
        return path

    return make


def _add_tone(output: Any, audio: Any) -> None:
    import av
    import numpy as np

    wave = (8000 * np.sin(np.arange(24000) / 20)).astype(np.int16)
    for start in range(0, 24000, 960):
        samples = np.repeat(wave[start : start + 960, None], 2, 1).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        output.mux(audio.encode(frame))
    output.mux(audio.encode(None))


def _folder(work: Path) -> Path:
    from PIL import Image

    folder = work / "images"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(_picture(number, SIZE)).save(folder / f"{number:03}.png")
    return folder


CLIPS: dict[str, Callable[[Path], Path]] = {
    "plain": _clip(".mp4"),
    "sound": _clip(".mp4", sound="aac"),
    "uneven": _clip(".mkv", uneven=True),
    "b frames": _clip(".mp4", options={"bf": "3", "g": "6"}),
    "interlaced": _clip(".mkv", options={"x264-params": "tff=1"}),
    "ten bits": _clip(".mkv", "ffv1", "yuv420p10le"),
    "lossless": _clip(".mkv", "ffv1", "bgr0"),
    "prores": _clip(".mov", "prores_ks", "yuv422p10le"),
    "mpeg2 ts": _clip(".ts", "mpeg2video", sound="mp2"),
    "images": _folder,
}


def _decoded(path: Path) -> str:
    """Returns one digest of all decoded frames with their times, and all packets of sound."""
    import av

    digest = hashlib.sha256()
    with av.open(str(path)) as media:
        for frame in media.decode(video=0):
            assert frame.pts is not None and frame.time_base is not None
            digest.update(f"{frame.pts * frame.time_base} {frame.format.name}".encode())
            for plane in frame.planes:
                digest.update(bytes(plane))
    with av.open(str(path)) as media:
        if media.streams.audio:
            for packet in media.demux(media.streams.audio[0]):
                digest.update(bytes(packet))
    return digest.hexdigest()


if __name__ == "__main__":
    if sys.argv[1] == "--digests":
        write_digests(Path(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1]))
