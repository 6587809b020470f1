"""The initial latent of a frame: a pure function of the seed and the frame's index.

So a resumed, sought or split video gets the very noise of one unbroken run. Philox is a
counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"), whose raw
output numpy keeps stable; the normal transform is written out because numpy's own may change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

STEP = np.float32(2.0**-24)


def frame_noise(seed: int, frame_index: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Standard normal values of `shape` in float32, for one frame of one seed.

    Args:
        seed: 0 to 2^64 - 1.
        frame_index: 0 to 2^64 - 1.
    """
    count = int(np.prod(shape))
    pairs = (count + 1) // 2
    generator = np.random.Philox(key=np.array([seed, frame_index], dtype=np.uint64))
    # 24 bits for each of a pair: all that float32 holds, and float32 is four times as fast.
    words = generator.random_raw(pairs).astype("<u8", copy=False).view("<u4") >> np.uint32(8)
    unit = words.astype(np.float32).reshape(pairs, 2)
    # Box, Muller (1958). Half a step keeps the first of them from zero, whose logarithm is none.
    radius = np.sqrt(-2 * np.log((unit[:, 0] + np.float32(0.5)) * STEP))
    angle = unit[:, 1] * (np.float32(2 * np.pi) * STEP)
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return normal[:count].reshape(shape)
