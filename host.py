"""Facts about this machine, and what follows from them for a build.

Asks for nothing that is slow or on a network; a question that a library or a driver does not answer
is answered with None. It judges nothing: that is `doctor`.
"""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from .engines.gpu import Gpu as Gpu
from .engines.gpu import nvidia_gpus as nvidia_gpus
from .errors import StreamDiffVSRError

TORCH_MODULES = ("torch", "transformers", "huggingface_hub")
LIVE_MODULES = ("tenacity", "aiohttp", "prometheus_client")
EXPORT_MODULES = (*TORCH_MODULES, "onnx", "onnxscript", "onnx_graphsurgeon", "polygraphy")


def package_version(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def missing_export(needed: tuple[str, ...] = EXPORT_MODULES) -> list[str]:
    """The modules of the export extra that are not installed."""
    return [name for name in needed if find_spec(name) is None]


def require_export(needed: tuple[str, ...] = EXPORT_MODULES) -> None:
    """Raise `StreamDiffVSRError` where engines cannot be built, naming what is missing."""
    if missing := missing_export(needed):
        raise StreamDiffVSRError(
            "engines cannot be built here",
            f"not installed: {', '.join(missing)}",
            "run pip install 'streamdiffvsr[export]', or bring an engine set built elsewhere",
        )


def missing_live() -> list[str]:
    """The modules of the live extra that are not installed."""
    return [name for name in LIVE_MODULES if find_spec(name) is None]


def require_live() -> None:
    """Raise `StreamDiffVSRError` where live sources cannot be read, naming what is missing."""
    if missing := missing_live():
        raise StreamDiffVSRError(
            "live sources cannot be upscaled here",
            f"not installed: {', '.join(missing)}",
            "run pip install 'streamdiffvsr[live]'",
        )


def free_bytes(folder: Path) -> int | None:
    """Free disk space where a folder is or would be made."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def onnxruntime_providers() -> list[str]:
    """The execution providers of the installed ONNX Runtime, none if it cannot be loaded."""
    try:
        import onnxruntime

        return list(onnxruntime.get_available_providers())
    except Exception:  # a library of the wrong platform fails in its own ways
        return []
