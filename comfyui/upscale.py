"""Defines the nodes that upscale: a batch of images, one frame, or a video from file to file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StreamDiffVSRError
from ..graphs.spec import DEFAULT_STEPS
from . import host
from .host import explained
from .inputs import (
    ADVANCED,
    BEFORE,
    PIPE,
    SEEDS,
    SETTINGS,
    STATE_TYPE,
    Input,
    chosen_flow_scale,
    node,
    widget,
)

if TYPE_CHECKING:
    from ..runtime.media.reader import Deinterlace
    from .pipe import Pipe
    from .run import NodeState, Settings


OF_ONE_FRAME = (
    "num_inference_steps",
    "seed",
    "controlnet_scale",
    "disable_tpm",
    "flow_scale",
    "scene_cuts",
)


@node("Stream-DiffVSR Upscale (Batch)", outputs={"images": "IMAGE", "state": STATE_TYPE})
class Upscale:
    """Upscale a batch of consecutive frames to four times their width and height. To upscale a
    video in parts, connect the state to the node for the next part; the result is the same as in
    one batch, bit for bit."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipe": PIPE,
                "images": ("IMAGE", {"tooltip": "Consecutive frames of a video, in order."}),
            },
            "optional": {"state": BEFORE, **SETTINGS},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @explained
    def run(
        self,
        pipe: Pipe,
        images: Any,
        state: NodeState | None = None,
        unique_id: str | None = None,
        **widgets: Any,
    ) -> tuple[Any, NodeState]:
        from .run import upscale_images

        return upscale_images(pipe, images, state, settings(**widgets), unique_id)


@node(
    "Stream-DiffVSR Process Frame",
    outputs={"image": "IMAGE", "state": STATE_TYPE},
    category=ADVANCED,
)
class ProcessFrame:
    """Upscale one frame to four times its width and height; for loops. Of a batch, only the first
    frame is upscaled."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipe": PIPE,
                "image": ("IMAGE", {"tooltip": "The frame to upscale."}),
                "state": BEFORE,
            },
            "optional": {**{name: SETTINGS[name] for name in OF_ONE_FRAME}},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @explained
    def run(
        self, pipe: Pipe, image: Any, state: NodeState, unique_id: str | None = None, **widgets: Any
    ) -> tuple[Any, NodeState]:
        from .run import upscale_images

        return upscale_images(pipe, image[:1], state, settings(**widgets), unique_id)


def settings(
    num_inference_steps: int = DEFAULT_STEPS,
    seed: int = 0,
    guidance_scale: float = 0.0,
    controlnet_scale: float = 1.0,
    force_flow_on_lq: bool = False,
    disable_tpm: bool = False,
    flow_scale: str = "auto",
    scene_cuts: bool = True,
) -> Settings:
    """Returns the settings of a run for the values of the widgets, by name."""
    from .run import Settings

    return Settings(
        steps=num_inference_steps,
        seed=seed % SEEDS,
        strength=controlnet_scale,
        flow_scale=chosen_flow_scale(flow_scale, force_flow_on_lq),
        temporal=not disable_tpm,
        scene_cuts=scene_cuts,
    )


NO_FRAMES = "this video was upscaled from file to file: use the output `video`, not `images`"
NO_FILE = "these frames were upscaled in memory: use the output `images`, not `video`"

VIDEO: Input = (
    "VIDEO",
    {
        "tooltip": "The video to upscale, from Load Video or other nodes. It takes precedence over "
        "video_path."
    },
)
VIDEO_PATH = widget(
    "STRING",
    "",
    "The video to upscale, if none is connected: the path of a file, or its name in ComfyUI's"
    " input folder.",
)
IMAGES: Input = (
    "IMAGE",
    {
        "tooltip": "Frames to upscale in memory; no file is written. They take precedence over "
        "video and video_path."
    },
)
OUTPUT_PATH = widget(
    "STRING",
    "",
    "The video to write, inside ComfyUI's output folder. Empty: an .mp4 there, with the "
    "input's name and a number.",
)
FRAMES_PER_BATCH = widget(
    "INT",
    16,
    "Without effect, kept for older workflows: frames are upscaled one by one.",
    min=1,
    max=64,
)
START_FRAME = widget("INT", 0, "The first frame to upscale, counted from 0.", min=0, max=2**31 - 1)
END_FRAME = widget(
    "INT", -1, "The last frame to upscale, counted from 0. -1: to the end.", min=-1, max=2**31 - 1
)
OVERWRITE = widget("BOOLEAN", False, "Replace an existing file at output_path.")
DEINTERLACE = widget(
    ["auto", "on", "off", "tff", "bff"],
    "auto",
    "Deinterlace a video file before upscaling. auto: only frames that are marked as interlaced. "
    "on: all frames. tff, bff: all frames, with the upper or lower field first. off: none.",
)
AUDIO = widget(
    ["copy", "transcode", "none"],
    "copy",
    "Sound of the new file. copy: unchanged. transcode: re-encoded as AAC, Opus or FLAC, "
    "whichever suits the file. none: left out.",
)


@node(
    "Stream-DiffVSR Upscale Video",
    outputs={"images": "IMAGE", "output_path": "STRING", "video": "VIDEO"},
    output_node=True,
)
class UpscaleVideo:
    """Upscale a video to four times its width and height, from file to file. Memory does not grow
    with its length; sound, times and subtitles are kept. Frames from other nodes can be upscaled
    instead, in memory."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"pipe": PIPE},
            "optional": {
                "video": VIDEO,
                "video_path": VIDEO_PATH,
                "images": IMAGES,
                "output_path": OUTPUT_PATH,
                "frames_per_batch": FRAMES_PER_BATCH,
                "start_frame": START_FRAME,
                "end_frame": END_FRAME,
                **SETTINGS,
                "overwrite": OVERWRITE,
                "deinterlace": DEINTERLACE,
                "audio": AUDIO,
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def IS_CHANGED(cls, video_path: str | None = "", **others: Any) -> float:
        """Returns the file's time, as another file of the same name is another video."""
        path = found(video_path or "")
        return path.stat().st_mtime if path.is_file() else 0.0

    @explained
    def run(
        self,
        pipe: Pipe,
        video: Any = None,
        video_path: str = "",
        images: Any = None,
        output_path: str = "",
        frames_per_batch: int = 16,
        start_frame: int = 0,
        end_frame: int = -1,
        overwrite: bool = False,
        deinterlace: Deinterlace = "auto",
        audio: str = "copy",
        unique_id: str | None = None,
        **widgets: Any,
    ) -> Any:
        from ..runtime.files.job import FileOptions
        from .run import Span, upscale_images, upscale_video, video_file

        wanted = settings(**widgets)
        span = Span(start_frame, None if end_frame < 0 else end_frame)
        if images is not None:
            _refuse_file(output_path)
            batch, _ = upscale_images(pipe, span.of(images), None, wanted, unique_id)
            return batch, "", host.blocked(NO_FILE)
        with video_file(given(video_path) if video is None else video) as source:
            output = destination(output_path, source.stem)
            options = FileOptions(overwrite=overwrite, deinterlace=deinterlace, audio=audio)
            upscale_video(pipe, source, output, wanted, span, options, unique_id)
        result = host.blocked(NO_FRAMES), str(output), host.video_from_file(output)
        return {"ui": shown(output), "result": result}


def found(path: str) -> Path:
    """Returns the file that a user names by its path, or by its name in ComfyUI's input folder."""
    name = Path(path.strip().strip('"')).expanduser()
    inside = host.input_folder() / name
    return inside if path.strip() and inside.is_file() else name


def given(path: str) -> Path:
    """Returns the file that a user names as the input.

    Raises:
        StreamDiffVSRError: The path is empty, a folder's, or an address.
    """
    from ..runtime.media.preflight import check_input_name

    if not path.strip():
        raise StreamDiffVSRError(
            "there is nothing to upscale", "", "connect a video, or write its path"
        )
    check_input_name(path.strip().strip('"'))
    if found(path).is_dir():
        raise StreamDiffVSRError(
            f"could not read {path.strip()!r:.200}",
            "it is a folder",
            "give one video; the frames of a folder are taken as images, by a node that loads them",
        )
    return found(path)


def destination(path: str, stem: str) -> Path:
    """Returns the path of the output, and creates its folder.

    Args:
        path: What the user wrote; empty for a numbered name.
        stem: The input's name without its extension.

    Raises:
        StreamDiffVSRError: The path is not a video's, or is outside ComfyUI's output folder: a
            prompt may come over the network, and must not write anywhere else.
    """
    from ..durable import beside
    from ..runtime.media.encoders import CONTAINERS

    folder = host.output_folder().resolve()
    if not path.strip():
        counted = "_00001_.mp4"
        name = beside(folder / stem, after=f"_4x{counted}").name
        return host.numbered_output(name.removesuffix(counted), ".mp4")
    output = (folder / Path(path.strip().strip('"'))).resolve()
    if not output.is_relative_to(folder):
        raise StreamDiffVSRError(
            f"could not write {path.strip()!r:.200}",
            "it is outside ComfyUI's output folder",
            "give a name in it, or start ComfyUI with another --output-directory",
        )
    if output.suffix.lower() not in CONTAINERS:
        raise StreamDiffVSRError(
            f"could not write {path.strip()!r:.200}",
            "its ending is not a video's",
            f"use one of {', '.join(CONTAINERS)}",
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    return output


def _refuse_file(output_path: str) -> None:
    if output_path.strip():
        raise StreamDiffVSRError(
            "frames from `images` are not written to a file",
            f"output_path is {output_path.strip()!r:.200}",
            "leave it empty, and connect the output `images` to Create Video and Save Video",
        )


def shown(output: Path) -> dict[str, Any]:
    """Returns what the page shows on the node: the video, if it is in the output folder."""
    folder = host.output_folder().resolve()
    if not output.resolve().is_relative_to(folder):
        return {}
    subfolder = output.resolve().parent.relative_to(folder).as_posix()
    where = "" if subfolder == "." else subfolder
    entry = {"filename": output.name, "subfolder": where, "type": "output"}
    return {"images": [entry], "animated": (True,)}
