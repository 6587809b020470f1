"""Tests that one line says whether ONNX Runtime's CUDA provider loads, without a session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streamdiffvsr.engines import onnxruntime_backend
from streamdiffvsr.engines.onnxruntime_backend import (
    CUDA,
    CUDNN,
    INSTALL,
    SHARED,
    why_no_cuda_provider,
)

NOT_THERE = "cannot open shared object file: No such file or directory"


class Installed:
    """An onnxruntime-gpu of this machine, and what its loader finds.

    Attributes:
        faults: What the loader says of a library, by its file name.
        loaded: The libraries that were loaded, in order.
        host: The shared library's answer about `import onnxruntime`.
    """

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.providers, self.cuda, self.driver = ["CUDAExecutionProvider"], "13.0", 13010
        self.faults: dict[str, str] = {}
        self.loaded: list[str] = []
        self.prints, self.host, self.preloads = "", 1, 0
        capi = folder / "onnxruntime" / "capi"
        capi.mkdir(parents=True)
        for name in (SHARED, CUDA):
            (capi / name).touch()
        module = SimpleNamespace(
            __file__=str(capi.parent / "__init__.py"),
            cuda_version=self.cuda,
            get_available_providers=lambda: self.providers,
            preload_dlls=self._preload,
        )
        patch.setitem(sys.modules, "onnxruntime", module)
        patch.setattr(onnxruntime_backend.ctypes, "CDLL", self._load)
        patch.setattr(onnxruntime_backend, "driver_call", lambda name: self.driver)

    def _preload(self) -> None:
        self.preloads += 1
        print(self.prints)

    def _load(self, path: str, mode: int = 0) -> Any:
        name = Path(path).name
        if name in self.faults:
            raise OSError(self.faults[name])
        self.loaded.append(name)
        return SimpleNamespace(Provider_GetHost=lambda: self.host)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Installed]:
    caches = (why_no_cuda_provider, onnxruntime_backend.find_cuda_libraries)
    for one in caches:
        one.cache_clear()
    yield Installed(monkeypatch, tmp_path)
    for one in caches:
        one.cache_clear()


def test_it_is_loaded_as_a_session_would_and_once(installed: Installed, capsys: Any) -> None:
    installed.prints = "Skip loading CUDA and cuDNN DLLs since torch is imported."
    assert why_no_cuda_provider() == why_no_cuda_provider() == ""
    assert installed.loaded == [SHARED, CUDA, CUDNN] and installed.preloads == 1
    assert capsys.readouterr() == ("", "")


def test_the_first_missing_library_is_named_with_the_remedy(
    installed: Installed, capsys: Any
) -> None:
    installed.prints = f"Failed to load libcublasLt.so.13: libcublasLt.so.13: {NOT_THERE}"
    installed.faults[CUDA] = f"libcublasLt.so.13: {NOT_THERE}"
    assert why_no_cuda_provider() == f"libcublasLt.so.13 is missing: run {INSTALL}"
    assert capsys.readouterr() == ("", "")  # stdout may be a program's JSON


def test_where_the_loader_names_none_onnxruntime_does(installed: Installed) -> None:
    """On Windows a library that was found in a wheel but not loaded may still be on the PATH."""
    installed.prints = (
        "Failed to load C:\\venv\\nvidia\\cu13\\bin\\cudart64_13.dll: [WinError 193]\n"
        "Failed to load cublasLt64_13.dll: Could not find module 'cublasLt64_13.dll'\n"
        "Please follow https://onnxruntime.ai/docs/install/"
    )
    installed.faults[CUDA] = "Could not find module 'C:\\venv\\x.dll' (or one of its dependencies)."
    assert why_no_cuda_provider() == f"cublasLt64_13.dll is missing: run {INSTALL}"


def test_convolutions_need_cudnn(installed: Installed) -> None:
    installed.faults[CUDNN] = f"{CUDNN}: {NOT_THERE}"
    assert why_no_cuda_provider() == f"{CUDNN} is missing: run {INSTALL}"


def test_a_library_of_another_version_is_told_in_the_loaders_words(installed: Installed) -> None:
    path = Path(sys.modules["onnxruntime"].__file__ or "").parent / "capi" / CUDA
    installed.faults[CUDA] = f"{path}: undefined symbol: cublasLtMatmul"
    told = why_no_cuda_provider()
    assert told == f"its CUDA provider does not load: {CUDA}: undefined symbol: cublasLtMatmul"


def test_a_library_that_would_crash_is_left_alone(installed: Installed) -> None:
    installed.host = 0
    assert why_no_cuda_provider() == "" and CUDA not in installed.loaded


@pytest.mark.parametrize(("driver", "able"), [(12040, False), (13000, True), (14010, True)])
def test_the_driver_must_be_new_enough(installed: Installed, driver: int, able: bool) -> None:
    installed.driver = driver
    told = why_no_cuda_provider()
    assert (told == "") == able
    if not able:
        assert "built for CUDA 13.0 and the driver is for CUDA 12.4; update the driver" in told
        assert installed.loaded == [] and "\n" not in told


def test_a_build_without_it(installed: Installed) -> None:
    installed.providers = ["CPUExecutionProvider"]
    assert why_no_cuda_provider() == "this build of it has no CUDAExecutionProvider"


def test_it_never_raises(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert why_no_cuda_provider() == "it does not load (ModuleNotFoundError)"
