"""One view on two libraries: every way of not being there, and what is found by asking."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from streamdiffvsr.engines.tensorrt_build import BuildSettings, build_plan
from streamdiffvsr.engines.tensorrt_library import TrtLibrary, load_library
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.graphs.spec import GraphSpec, TensorSpec

SPEC = GraphSpec(
    "prepare", (TensorSpec("frame", (1, 2), "uint8"),), (TensorSpec("lr", (1, 2), "float16"),)
)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (None, r"TensorRT is not installed: .*pip install 'streamdiffvsr\[tensorrt\]'"),
        ("raise OSError('libnvinfer.so.10: cannot open')", "OSError: libnvinfer.so.10"),
        ("raise ImportError('DLL load failed')", "ImportError: DLL load failed"),
        ("import no_such_libs", "cannot be loaded: No module named 'no_such_libs'"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("__version__ = '8.6'; Builder = 1", "TensorRT 8.6 cannot be used: it has no OnnxParser"),
        ("", "of an unknown version"),
    ],
)
def test_a_library_that_does_not_load_is_one_line(monkeypatch, tmp_path, code, told):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt"]:
        monkeypatch.delitem(sys.modules, name)
    if code is None:
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.setattr(sys, "meta_path", sys.meta_path[-1:])
    else:
        (tmp_path / "tensorrt.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StreamDiffVSRError, match=told) as caught:
        load_library("tensorrt")
    assert "\n" not in str(caught.value)
    sys.modules.pop("tensorrt", None)


class Fake:
    """A TensorRT of names and numbers: it records what it was asked, and fails where it should."""

    def __init__(self, fail: str = "", *, weak_types: bool = True) -> None:
        self.fail, self.asked = fail, []
        flags = {"TF32": 7} | ({"FP16": 0} if weak_types else {})
        self.module = ModuleType("tensorrt")
        parts = dict(
            ILogger=type("ILogger", (), {}),
            IProgressMonitor=type("IProgressMonitor", (), {}),
            IBuilderConfig=type("IBuilderConfig", (), {}),
            BuilderFlag=SimpleNamespace(**flags),
            NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
            MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
            Builder=self.builder,
            OnnxParser=self.parser,
        )
        vars(self.module).update(parts)
        self.library = TrtLibrary(self.module, "TensorRT", "10.13")

    def builder(self, log: Any) -> Any:
        self.log = log
        if self.fail == "builder":
            self.says("no driver")
            raise TypeError("factory function returned nullptr")
        return SimpleNamespace(
            create_network=lambda flags: self.result("network", self.network(flags)),
            create_builder_config=lambda: self.result("config", self.config()),
            build_serialized_network=lambda network, config: self.result("build", b"plan"),
        )

    def result(self, name: str, value: Any) -> Any:
        if self.fail != name:
            return value
        self.says(f"no {name}")
        return None

    def says(self, text: str) -> None:
        self.log.log(SimpleNamespace(name="WARNING"), "not this")
        self.log.log(SimpleNamespace(name="ERROR"), text)

    def network(self, flags: int) -> Any:
        self.asked.append(("flags", flags))
        frame = SimpleNamespace(name="frame", shape=(1, 2), dtype=SimpleNamespace(name="UINT8"))
        lr = SimpleNamespace(name="lr", shape=(1, 2), dtype=SimpleNamespace(name="HALF"))
        return SimpleNamespace(
            num_inputs=1, num_outputs=1, get_input=lambda i: frame, get_output=lambda i: lr
        )

    def parser(self, network: Any, log: Any) -> Any:
        error = SimpleNamespace(node_name=lambda: "Conv_1", desc=lambda: "not\nsupported")
        failed = self.fail == "parser"
        return SimpleNamespace(
            parse_from_file=lambda path: not failed,
            num_errors=int(failed),
            get_error=lambda i: error,
        )

    def config(self) -> Any:
        cache = SimpleNamespace(serialize=lambda: b"timings")
        return SimpleNamespace(
            clear_flag=lambda flag: self.asked.append(("clear", flag)),
            set_memory_pool_limit=lambda pool, size: self.asked.append((pool, size)),
            create_timing_cache=lambda data: self.asked.append(("cache", data)) or cache,
            set_timing_cache=lambda cache, ignore_mismatch: self.asked.append("set") or True,
            get_timing_cache=lambda: cache,
        )

    def build(self, folder: Path, settings: BuildSettings) -> None:
        build_plan(
            self.library, folder / "prepare.onnx", SPEC, folder / "p.plan", settings, lambda f: None
        )


@pytest.mark.parametrize(("weak_types", "flags"), [(True, 2), (False, 0)])
def test_networks_are_strongly_typed_in_every_generation(tmp_path, weak_types, flags):
    fake = Fake(weak_types=weak_types)
    fake.build(tmp_path, BuildSettings(workspace_bytes=4096))
    assert fake.asked == [("flags", flags), ("clear", 7), ("workspace", 4096)]
    assert (tmp_path / "p.plan").read_bytes() == b"plan"


def test_kernel_times_are_kept_between_builds(tmp_path):
    settings = BuildSettings(timing_cache=tmp_path / "timings" / "gpu.cache")
    for known in (b"", b"timings"):
        fake = Fake()
        fake.build(tmp_path, settings)
        assert ("cache", known) in fake.asked and "set" in fake.asked
    assert [p.name for p in settings.timing_cache.parent.iterdir()] == ["gpu.cache"]


@pytest.mark.parametrize(
    ("fail", "told"),
    [
        ("builder", "cannot make a builder: no driver$"),
        ("network", "cannot make a network: no network$"),
        ("config", "cannot configure a build: no config$"),
        ("parser", "cannot read prepare.onnx: Conv_1 not supported$"),
        ("build", "cannot build prepare: no build$"),
    ],
)
def test_every_refusal_is_one_line_in_the_librarys_words(tmp_path, fail, told):
    with pytest.raises(StreamDiffVSRError, match=told):
        Fake(fail).build(tmp_path, BuildSettings())
    assert list(tmp_path.iterdir()) == []
