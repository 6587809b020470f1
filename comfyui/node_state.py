"""STREAM_DIFFVSR_STATE: what one node leaves for the next, so that a batch may be cut anywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..runtime.cuts import CutDetector, Thumbnail
from ..runtime.state import StreamState


@dataclass(frozen=True, slots=True)
class NodeState:
    """A state of the stream, and what its scene looks like.

    Attributes:
        stream: All that the next frame depends on.
        scene: The memory of the cut detector; None before the first frame.
    """

    stream: StreamState
    scene: Thumbnail | None = None

    @classmethod
    def after(cls, stream: StreamState) -> NodeState:
        """Of a state that comes from elsewhere: the scene is that of its previous frame."""
        detector = CutDetector()
        if stream.previous_lr is not None:
            detector.is_cut(stream.previous_lr)
        return cls(stream, detector.memory)

    def seeded(self, seed: int) -> NodeState:
        """The state for a node with this seed, which counts only where a stream begins."""
        begins = self.stream.frame_index == 0 and not self.stream.has_previous
        return replace(self, stream=replace(self.stream, seed=seed)) if begins else self
