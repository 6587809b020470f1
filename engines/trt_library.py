"""One view on `tensorrt` and `tensorrt_rtx`: loading either, what it can do, and what it says.

Two libraries and three generations (TensorRT 10.13 and 11, TensorRT-RTX 1) share one API that
differs in details. Those are found by asking for the attribute, never by comparing versions.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from ..errors import StreamDiffVSRError

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # backend -> module
TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
# What this package cannot do without: TensorRT 8 and a stray folder of the name lack some of it.
NEEDED = ("Builder", "OnnxParser", "Runtime", "ILogger", "IProgressMonitor", "IRuntimeConfig")
KEPT_LINES = 32
TOLD_LINES = 3
ERRORS = ("INTERNAL_ERROR", "ERROR")


@dataclass(frozen=True, slots=True)
class TrtLibrary:
    """A loaded library.

    Attributes:
        module: `tensorrt` or `tensorrt_rtx`.
        title: Its name as a user knows it.
    """

    module: Any
    title: str
    version: str

    @property
    def builds_for_named_gpus(self) -> bool:
        """Plans are for a list of compute capabilities, and are built without a GPU (RTX)."""
        return hasattr(self.module.IBuilderConfig, "num_compute_capabilities")

    @property
    def has_optimization_levels(self) -> bool:
        """Whether a build can be told how long to look for quicker engines."""
        return hasattr(self.module.IBuilderConfig, "builder_optimization_level")

    @property
    def has_group_norms(self) -> bool:
        """Whether its norms scale by channel, as ONNX has it since opset 21, and not by group."""
        return hasattr(self.module.INetworkDefinition, "add_normalization_v2")

    @property
    def network_flags(self) -> int:
        """Of `create_network`: strongly typed, which is the only kind where FP16 flags are gone."""
        if not hasattr(self.module.BuilderFlag, "FP16"):
            return 0
        return 1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@cache
def load_library(backend: str) -> TrtLibrary:
    """The library of a backend.

    Args:
        backend: "tensorrt" or "tensorrt-rtx".

    Raises:
        StreamDiffVSRError: It is not installed, cannot be loaded, or is too old.
    """
    name, title = MODULES[backend], TITLES[backend]
    remedy = f"run pip install 'streamdiffvsr[{backend}]'"
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise StreamDiffVSRError(
                f"{title} is not installed", f"there is no module {name}", remedy
            ) from None
        raise StreamDiffVSRError(f"{title} cannot be loaded", str(error), remedy) from error
    except Exception as error:  # without its libraries it fails as the platform's loader does
        raise StreamDiffVSRError(
            f"{title} cannot be loaded",
            f"{type(error).__name__}: {error}",
            f"run pip install --force-reinstall 'streamdiffvsr[{backend}]'",
        ) from error
    if missing := [needed for needed in NEEDED if not hasattr(module, needed)]:
        version = getattr(module, "__version__", "of an unknown version")
        raise StreamDiffVSRError(
            f"{title} {version} cannot be used", f"it has no {', '.join(missing)}", remedy
        )
    return TrtLibrary(module, title, str(module.__version__))


class TrtLog:
    """What the library has said since a moment, so that errors can quote it.

    Attributes:
        handle: What the library's constructors take.
    """

    def __init__(self, library: TrtLibrary) -> None:
        self.handle = _listener(library.module)
        self._before = self.handle.count

    def told(self) -> str:
        """The last errors since then in one line, or that there were none."""
        count = self.handle.count - self._before
        last = list(dict.fromkeys(list(self.handle.errors)[-count:] if count else []))
        return "; ".join(last[-TOLD_LINES:]) or "the library does not say why"


@cache
def _listener(module: Any) -> Any:
    """The one logger of a library: it speaks to the first that it was given, and lives as long.

    Its base is the library's own class, so it is made at run time.
    """

    class Listener(module.ILogger):  # type: ignore[misc]  # a class of a library without types
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=KEPT_LINES)
            self.count = 0

        def log(self, severity: Any, text: str) -> None:
            if severity.name in ERRORS:
                self.errors.append(" ".join(text.split()))
                self.count += 1

    return Listener()
