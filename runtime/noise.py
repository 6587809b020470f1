"""The initial latent of a frame: a pure function of the seed and the frame's index.

So a resumed, sought or split video gets the very noise of one unbroken run. Philox is a
counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"), whose raw
output numpy keeps stable; the normal transform is written out because numpy's own may change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def frame_noise(seed: int, frame_index: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Standard normal values of `shape` in float32, for one frame of one seed.

    Args:
        seed: 0 to 2^64 - 1.
        frame_index: 0 to 2^64 - 1.
    """
    count = int(np.prod(shape))
    pairs = (count + 1) // 2
    generator = np.random.Philox(key=np.array([seed, frame_index], dtype=np.uint64))
    raw = generator.random_raw(2 * pairs).astype(np.float64) / 2.0**64
    # Box, Muller (1958). 1 - u is in (0, 1], so the logarithm is finite.
    radius = np.sqrt(-2.0 * np.log(1.0 - np.minimum(raw[:pairs], 1.0 - 2.0**-53)))
    angle = 2.0 * np.pi * raw[pairs:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return normal[:count].astype(np.float32).reshape(shape)
