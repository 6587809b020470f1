"""Whether ONNX Runtime's CUDA provider loads here, asked before anything is built for it.

`get_available_providers` lists what was compiled in. The provider is a library of its own, which
needs CUDA's and cuDNN's libraries, and a driver that is new enough for them.
"""

from __future__ import annotations

import ctypes
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import StreamDiffVSRError
from .cuda_driver import driver_call
from .gpu import dotted
from .ort_cuda import find_cuda_libraries

PROVIDER = "CUDAExecutionProvider"
WINDOWS = sys.platform == "win32"
SHARED, CUDA, CUDNN = (
    ("onnxruntime_providers_shared.dll", "onnxruntime_providers_cuda.dll", "cudnn64_9.dll")
    if WINDOWS
    else ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so", "libcudnn.so.9")
)
INSTALL = "pip install 'streamdiffvsr[cuda]'"
# The loader's words on Linux. On Windows it names no library, and ONNX Runtime's own search does.
NOT_FOUND = re.compile(r"([^\s:/\\]+): cannot open shared object file")
NOT_PRELOADED = re.compile(r"^Failed to load ([^\s:/\\]+): ", re.MULTILINE)


@cache
def why_no_cuda_provider() -> str:
    """What stands against the CUDA provider of the installed ONNX Runtime, or nothing.

    Whether there is a GPU is for `why_no_gpu` to say, and is asked before. Never raises.
    """
    try:
        import onnxruntime

        if PROVIDER not in onnxruntime.get_available_providers():
            return f"this build of it has no {PROVIDER}"
        return _why_too_new(onnxruntime) or _why_not_loaded(onnxruntime)
    except StreamDiffVSRError as error:  # no driver to ask
        return error.why or error.what
    except Exception as error:  # a library of the wrong platform fails in its own ways
        return f"it does not load ({type(error).__name__})"


def _why_too_new(onnxruntime: Any) -> str:
    """A driver runs what was built for an older CUDA, or for another minor version of its own."""
    built = str(getattr(onnxruntime, "cuda_version", "") or "")
    major = built.partition(".")[0]
    if not major.isdecimal():
        return ""
    driver = int(driver_call("cuDriverGetVersion"))
    if int(major) <= driver // 1000:
        return ""
    return (
        f"it is built for CUDA {built} and the driver is for CUDA {dotted(driver)}; update the "
        f"driver, or install a release of onnxruntime-gpu for CUDA {driver // 1000}"
    )


def _why_not_loaded(onnxruntime: Any) -> str:
    """Load what a session will load, in the order in which it does."""
    said, folder = find_cuda_libraries(), Path(onnxruntime.__file__).parent / "capi"
    if not (folder / CUDA).is_file():
        return ""  # built in, or somewhere else: a session will find it or say so
    try:
        shared = ctypes.CDLL(str(folder / SHARED), mode=ctypes.RTLD_GLOBAL)
        shared.Provider_GetHost.restype = ctypes.c_void_p
        # Set by `import onnxruntime`. Without it the provider's library ends the process.
        if shared.Provider_GetHost():
            ctypes.CDLL(str(folder / CUDA))
        ctypes.CDLL(CUDNN)  # what convolutions need; newer providers load without it
    except OSError as error:
        told = " ".join(str(error).split()).replace(str(folder), "").lstrip("/\\")
        missing = NOT_FOUND.match(told) or NOT_PRELOADED.search(said)
        what = f"{missing[1]} is missing" if missing else f"its CUDA provider does not load: {told}"
        return f"{what}: run {INSTALL}" if missing else what
    return ""
