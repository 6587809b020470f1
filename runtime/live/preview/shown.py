"""A session's status as JSON that anybody may see: without credentials, and without NaN.

It knows nothing of what the status says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ...media.redact import redact


def shown(value: Any) -> Any:
    """The same, redacted should a credential have slipped in; what is no number becomes null."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_json(value: Any) -> str:
    """What :func:`shown` gave as text; numbers of numpy are taken too."""
    return json.dumps(value, default=float, allow_nan=False)
