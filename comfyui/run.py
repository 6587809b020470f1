"""Runs the upscaler for the ComfyUI nodes, and converts their tensors to images and states.

It is imported only when a node runs, so that ComfyUI starts quickly.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av

from ..errors import StreamDiffVSRError
from ..graphs.spec import DEFAULT_STEPS, GIB, SCALE, Size, format_bytes, format_size
from ..runtime.files.upscale import FileOptions, UpscaleReport, upscale_file
from ..runtime.frame_stream import CutDetector, Image, Thumbnail, mark_images
from ..runtime.media.reader import probe
from ..runtime.state import StreamState
from . import host
from .pipe import EngineWish, GuidedUpscaler, Pipe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Frame = npt.NDArray[np.uint8]


def size_of(images: Any) -> tuple[int, int]:
    """Returns the size (h, w) of the frames of a batch.

    Raises:
        StreamDiffVSRError: It is not an IMAGE, or it has no frames.
    """
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) != 4 or shape[3] not in (1, 3, 4) or 0 in shape:
        raise StreamDiffVSRError(
            f"the images have the shape {shape}",
            "frames come as (count, height, width, channels), of grey, RGB or RGBA",
            "connect an IMAGE with at least one frame",
        )
    return shape[1], shape[2]


def to_frame(image: Any) -> Frame:
    """Returns an image (h, w, C) as (h, w, 3) uint8 RGB, without alpha; grey becomes RGB."""
    rgb = image[..., :3].float().nan_to_num().mul(255).round().clamp(0, 255)
    if rgb.shape[-1] == 1:
        rgb = rgb.expand(*rgb.shape[:-1], 3)
    frame: Frame = rgb.byte().cpu().contiguous().numpy()
    return frame


def check_room(count: int, size: tuple[int, int]) -> None:
    """Raises StreamDiffVSRError unless the outputs of frames of an LR size fit in memory."""
    from ..engines.host import free_host_bytes

    height, width = SCALE * size[0], SCALE * size[1]
    needed, free = 12 * count * height * width, free_host_bytes()
    if host.image_device().type == "cpu" and needed > free:
        raise StreamDiffVSRError(
            f"{count} output frames of {width}x{height} do not fit in memory",
            f"as an IMAGE they take {format_bytes(needed, 'GiB')}, and {free / GIB:.1f} are free",
            "use StreamDiffVSR_UpscaleVideo, which writes to a file, or upscale parts of the video",
        )


def new_batch(count: int, size: tuple[int, int]) -> Any:
    """Returns an empty batch for the outputs of frames of an LR size, on ComfyUI's device."""
    import torch

    shape = (count, SCALE * size[0], SCALE * size[1], 3)
    return torch.empty(shape, dtype=torch.float32, device=host.image_device())


def put(batch: Any, index: int, frame: Frame) -> None:
    """Writes a frame, (H, W, 3) uint8 RGB, into a batch."""
    import torch

    batch[index] = torch.from_numpy(frame)
    batch[index] /= 255


def from_frame(frame: Frame) -> Any:
    """Returns a frame, (h, w, 3) uint8 RGB, as a batch of one."""
    import torch

    return torch.from_numpy(frame)[None].to(host.image_device()).float() / 255


@dataclass(frozen=True, slots=True)
class NodeState:
    """The state of a stream between two nodes.

    Attributes:
        stream: The state that the next frame is made from.
        scene: The memory of the cut detector; None before the first frame.
    """

    stream: StreamState
    scene: Thumbnail | None = None

    @classmethod
    def after(cls, stream: StreamState) -> NodeState:
        """Returns a node's state for a stream's; the scene is that of its previous frame."""
        detector = CutDetector()
        if stream.previous_lr is not None:
            detector.is_cut(stream.previous_lr)
        return cls(stream, detector.memory)

    def seeded(self, seed: int) -> NodeState:
        """Returns the state with a node's seed, which counts only where a stream begins."""
        begins = self.stream.frame_index == 0 and not self.stream.has_previous
        return replace(self, stream=replace(self.stream, seed=seed)) if begins else self


def write_lossless(
    path: Path, images: Any, rate: Fraction, sound: Mapping[str, Any] | None
) -> None:
    """Writes the components of a VIDEO to a file, its frames without loss.

    Args:
        images: IMAGE (count, h, w, C).
        rate: Frames per second.
        sound: AUDIO, {"waveform": (1, channels, samples), "sample_rate": n}, or None.
    """
    height, width = size_of(images)
    with av.open(str(path), "w") as container:
        picture: Any = container.add_stream("png", rate=Fraction(rate))
        picture.width, picture.height, picture.pix_fmt = width, height, "rgb24"
        picture.options = {"compression_level": "1"}
        track: Any = None
        if sound is not None:
            layout = "mono" if sound["waveform"].shape[1] == 1 else "stereo"
            track = container.add_stream("aac", rate=int(sound["sample_rate"]), layout=layout)
        for image in images:
            frame = av.VideoFrame.from_ndarray(to_frame(image), format="rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if sound is not None:
            _write_sound(container, track, sound)


def _write_sound(container: Any, track: Any, sound: Mapping[str, Any]) -> None:
    """Writes the first two channels of an AUDIO, or its only one."""
    samples = sound["waveform"][0, :2].float().cpu().contiguous().numpy()
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=track.layout.name)
    frame.sample_rate, frame.pts = int(sound["sample_rate"]), 0
    container.mux(track.encode(frame))
    container.mux(track.encode(None))


@dataclass(frozen=True, slots=True)
class Settings:
    """The values of the widgets of an upscaling node.

    Attributes:
        steps: The number of denoising steps per frame.
        seed: The seed of the noise of a stream that begins; one that continues keeps its own.
        strength: The strength of the ControlNet.
        flow_scale: The flow is computed at 1/N of the output size; None: by model and size.
        temporal: Whether the decoder's temporal processors run.
        scene_cuts: Whether to forget the previous frame at a scene cut.
    """

    steps: int = DEFAULT_STEPS
    seed: int = 0
    strength: float = 1.0
    flow_scale: int | None = None
    temporal: bool = True
    scene_cuts: bool = True

    def engines_for(self, size: tuple[int, int]) -> EngineWish:
        """Returns the choice of engines for frames of a size (h, w)."""
        return EngineWish(size, self.steps, self.flow_scale)


def upscale_images(
    pipe: Pipe, images: Any, state: NodeState | None, settings: Settings, node: str | None = None
) -> tuple[Any, NodeState]:
    """Upscales a batch of consecutive frames.

    Args:
        images: IMAGE (count, h, w, C).
        state: The state after the frames before these; None at the start of a video.
        node: The id of the node that shows the progress.

    Returns:
        IMAGE (count, 4h, 4w, 3) and the state after the last frame.

    Raises:
        StreamDiffVSRError: The state is for frames of another size, or memory does not suffice.
    """
    before = (state or NodeState(StreamState())).seeded(settings.seed)
    size, count = size_of(images), images.shape[0]
    _check_state(before.stream, size)
    check_room(count, size)  # before engines are built, which may take minutes
    upscaler = pipe.upscaler(settings.engines_for(size), node)
    batch, progress = new_batch(count, size), host.Progress(count, node)
    detector = CutDetector()
    detector.memory = before.scene

    def frames() -> Iterator[Image]:
        for image in images:
            host.stop_if_cancelled()
            yield to_frame(image)

    variant = GuidedUpscaler(
        upscaler, strength=settings.strength, temporal=settings.temporal, see=lambda frame: None
    )
    marked = mark_images(frames(), detector.is_cut if settings.scene_cuts else None)
    after = pipe.with_features(before.stream)
    with closing(variant.stream_frames(marked, after)) as outputs:
        for done, out in enumerate(outputs):
            put(batch, done, out.image)
            progress.frames(done + 1, count, out.image)
            after = out.state
    return batch, NodeState(pipe.without_features(after), detector.memory)


def _check_state(state: StreamState, size: Size) -> None:
    if state.size not in (None, size):
        raise StreamDiffVSRError(
            f"the state belongs to frames of {format_size(state.size)}",
            f"these are {format_size(size)}, so it does not come from the frames before them",
            "connect the state of the same video, or none where a video begins",
        )


@dataclass(frozen=True, slots=True)
class Span:
    """A range of frames.

    Attributes:
        first: The index of the first frame, from 0.
        last: The index of the last frame, which is included; None: to the end.

    Raises:
        StreamDiffVSRError: The range is empty.
    """

    first: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        if self.last is not None and self.last < self.first:
            raise StreamDiffVSRError(
                f"there is no frame from {self.first} to {self.last}",
                "end_frame is before start_frame",
                "set end_frame to -1 for all, or after start_frame",
            )

    def of(self, images: Any) -> Any:
        """Returns the frames of an IMAGE that are in the range.

        Raises:
            StreamDiffVSRError: There are none.
        """
        count = len(images)
        if self.first >= count:
            raise StreamDiffVSRError(
                f"there is no frame {self.first}", f"images has {count}", "lower start_frame"
            )
        return images[self.first : None if self.last is None else self.last + 1]

    def options(self, rate: Fraction | None) -> dict[str, Any]:
        """Returns the range as options of a job.

        It starts half a frame early, so that a rounded time does not lose the first frame.
        """
        count = None if self.last is None else self.last - self.first + 1
        early = Fraction(2 * self.first - 1, 2) / (rate or Fraction(25))
        return {"max_frames": count, "start": early if self.first else None}


def upscale_video(
    pipe: Pipe,
    source: Path,
    output: Path,
    settings: Settings,
    span: Span,
    asked: FileOptions,
    node: str | None,
) -> UpscaleReport:
    """Upscales a file; after Cancel or a failure, nothing is left of the output.

    Args:
        asked: The options of the job that only this node has; the others come from `settings`.
        node: The id of the node that shows the progress.
    """
    info = probe(source)
    upscaler = pipe.upscaler(settings.engines_for(info.size), node)
    progress, last = host.Progress(info.frames or 1, node), list[Image]()

    def see(frame: Image) -> None:
        host.stop_if_cancelled()
        last[:] = [frame]

    def show(done: int, total: int | None) -> None:
        progress.frames(done, total or done, last[0])

    variant = GuidedUpscaler(
        upscaler, strength=settings.strength, temporal=settings.temporal, see=see
    )
    options = replace(
        asked,
        seed=settings.seed,
        scene_cuts=settings.scene_cuts,
        keep_unfinished=False,
        **span.options(info.average_rate),
    )
    report = upscale_file(source, output, variant, options, progress=show)
    for note in report.notes:
        progress.say(note)
    return report


@contextmanager
def video_file(video: Any) -> Iterator[Path]:
    """Yields the file of a VIDEO, or a path as it is.

    A file that has to be written first is removed at the end.
    """
    if isinstance(video, Path):
        yield video
        return
    frames = host.frames_of(video)
    source: Any = None if frames is not None else video.get_stream_source()
    if isinstance(source, str) and host.is_whole(video, source):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(dir=host.temporary_folder()) as folder:
        path = Path(folder, "video.mov")
        if frames is not None:
            write_lossless(path, frames.images, frames.frame_rate, frames.audio)
        elif isinstance(source, str):
            video.save_to(str(path))  # a part of a file, whose packets are copied
        else:
            with path.open("wb") as file:
                shutil.copyfileobj(source, file)
        yield path
