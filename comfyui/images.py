"""Converts between ComfyUI's tensors and this package's images and states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import StreamDiffVSRError
from ..graphs.spec import GIB, SCALE, format_bytes
from ..runtime.frame_stream import CutDetector, Thumbnail
from ..runtime.state import StreamState
from . import host

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
