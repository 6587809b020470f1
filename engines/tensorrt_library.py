"""TensorRT or TensorRT-RTX as it is installed: what it can do, its log and its tensors."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from ..errors import StreamDiffVSRError
from ..graphs.spec import TensorSpec

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # backend -> module
TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
# Names that this package needs: TensorRT 8, or a stray folder of that name, lacks some of them.
NEEDED = ("Builder", "OnnxParser", "Runtime", "ILogger", "IProgressMonitor", "IRuntimeConfig")
KEPT_ERRORS = 32
SHOWN_ERRORS = 3
ERRORS = ("INTERNAL_ERROR", "ERROR")


@dataclass(frozen=True, slots=True)
class TrtLibrary:
    """A loaded library.

    Attributes:
        module: `tensorrt` or `tensorrt_rtx`.
        title: Its name for users.
    """

    module: Any
    title: str
    version: str

    @property
    def builds_for_named_gpus(self) -> bool:
        """Returns whether plans are for listed compute capabilities, built without a GPU (RTX)."""
        return hasattr(self.module.IBuilderConfig, "num_compute_capabilities")

    @property
    def has_optimization_levels(self) -> bool:
        """Returns whether the time a build searches for faster engines can be limited."""
        return hasattr(self.module.IBuilderConfig, "builder_optimization_level")

    @property
    def has_group_norms(self) -> bool:
        """Returns whether its norms scale by channel (ONNX since opset 21) instead of by group."""
        return hasattr(self.module.INetworkDefinition, "add_normalization_v2")

    @property
    def network_flags(self) -> int:
        """The flags for `create_network`: strongly typed if the library has no FP16 flag."""
        if not hasattr(self.module.BuilderFlag, "FP16"):
            return 0
        return 1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@cache
def load_library(backend: str) -> TrtLibrary:
    """Loads the library of a backend.

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
    except Exception as error:  # a missing shared library raises the platform loader's error
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
    """The errors that the library logs from now on, so that messages can quote them.

    Attributes:
        handle: The logger that the library's constructors take.
    """

    def __init__(self, library: TrtLibrary) -> None:
        self.handle = _listener(library.module)
        self._before = self.handle.count

    def reason(self) -> str:
        """Returns the last errors since then in one line, or that there were none."""
        count = self.handle.count - self._before
        last = list(dict.fromkeys(list(self.handle.errors)[-count:] if count else []))
        return "; ".join(last[-SHOWN_ERRORS:]) or "the library does not say why"


@cache
def _listener(module: Any) -> Any:
    """Returns the only logger of a library, which keeps using the first one that it was given.

    Its base is the library's own class, so it is defined at run time.
    """

    class Listener(module.ILogger):  # type: ignore[misc]  # a class of a library without types
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=KEPT_ERRORS)
            self.count = 0

        def log(self, severity: Any, text: str) -> None:
            if severity.name in ERRORS:
                self.errors.append(" ".join(text.split()))
                self.count += 1

    return Listener()


DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "UINT8": "uint8"}


def fits(found: TensorSpec, wanted: TensorSpec) -> bool:
    """Returns whether a tensor, whose sides may be open (-1), can have the wanted shape."""
    return (found.name, found.dtype, len(found.shape)) == (
        wanted.name,
        wanted.dtype,
        len(wanted.shape),
    ) and all(side in (-1, want) for side, want in zip(found.shape, wanted.shape, strict=True))
