"""A batch of images through a pipe, frame by frame: what Upscale and ProcessFrame are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import StreamDiffVSRError
from ..runtime.cuts import CutDetector
from ..runtime.frames import Image
from ..runtime.state import StreamState
from ..spec import Size, format_size
from . import host
from .images import check_room, new_batch, put, size_of, to_frame
from .node_state import NodeState
from .pipe import EngineWish, Pipe
from .variant import GuidedUpscaler


@dataclass(frozen=True, slots=True)
class Settings:
    """What the widgets of an upscaling node say.

    Attributes:
        seed: Of the noise of a stream that begins; one that goes on keeps its own.
        strength: Of the ControlNet.
        flow_scale: The flow is found at 1/n of the output; None for the plan's choice.
        temporal: Whether the decoder's temporal processors run.
        scene_cuts: Forget the previous frame at a scene cut.
    """

    steps: int = 4
    seed: int = 0
    strength: float = 1.0
    flow_scale: int | None = None
    temporal: bool = True
    scene_cuts: bool = True

    def engines_for(self, size: tuple[int, int]) -> EngineWish:
        """The engines that frames of a size (h, w) need."""
        return EngineWish(size, self.steps, self.flow_scale)


def upscale_images(
    pipe: Pipe, images: Any, state: NodeState | None, settings: Settings, node: str | None = None
) -> tuple[Any, NodeState]:
    """Upscale a batch, whose frames are consecutive.

    Args:
        images: IMAGE (count, h, w, C).
        state: What the frames before have left; None at the start.

    Returns:
        IMAGE (count, 4h, 4w, 3) and the state after the last frame.

    Raises:
        StreamDiffVSRError: The state is of frames of another size, or memory does not suffice.
    """
    before = (state or NodeState(StreamState())).seeded(settings.seed)
    size, count = size_of(images), images.shape[0]
    _check_state(before.stream, size)
    check_room(count, size)  # now: engines may have to be built first
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
    outputs = variant.stream(
        frames(),
        pipe.with_features(before.stream),
        cuts=detector.is_cut if settings.scene_cuts else None,
    )
    try:
        for done, out in enumerate(outputs):
            put(batch, done, out)
            progress.frames(done + 1, count, out)
        after = pipe.without_features(outputs.state)
    finally:
        outputs.close()
    return batch, NodeState(after, detector.memory)


def _check_state(state: StreamState, size: Size) -> None:
    if state.size not in (None, size):
        raise StreamDiffVSRError(
            f"the state is of {format_size(state.size)} frames",
            f"these are {format_size(size)}, so it is not of the frames before them",
            "connect the state of the same video, or none where a video begins",
        )
