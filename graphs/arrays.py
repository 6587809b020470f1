"""Types of arrays; their shapes are documented where they are used."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Image: TypeAlias = npt.NDArray[np.uint8]  # (height, width, 3) RGB [0, 255]
Image16: TypeAlias = npt.NDArray[np.uint16]  # the same in [0, 65535]
