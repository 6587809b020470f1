"""Whole sets of TensorRT-RTX plans, built where there is no GPU."""

from __future__ import annotations

import pytest

import streamdiffvsr
from streamdiffvsr.engines.engine_set import open_engines
from streamdiffvsr.engines.manifest import read_manifest
from streamdiffvsr.engines.tensorrt_backend import plan_file
from streamdiffvsr.engines.tensorrt_build import RTX_CAPABILITIES
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.graphs.spec import GRAPHS
from streamdiffvsr.tests.engines.test_trust import swap


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_set_is_built_for_every_gpu_and_built_once(parity_model, tmp_path, precision):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    pytest.importorskip("torch", reason="graphs are exported with the export extra")

    def build() -> list[str]:
        said: list[str] = []
        streamdiffvsr.build(
            parity_model,
            size=(48, 64),
            backend="tensorrt-rtx",
            device="cuda",
            precision=precision,
            out=tmp_path / "set",
            progress=said.append,
        )
        return said

    assert build()[-1].startswith("built ")
    manifest = read_manifest(tmp_path / "set")
    assert manifest.key.gpu == ",".join(f"sm{c}" for c in RTX_CAPABILITIES)
    assert manifest.key.optimization_level is None
    for name in GRAPHS:
        assert manifest.files[plan_file(name)].bytes > 100_000
    assert build() == [f"up to date: {tmp_path / 'set'}"]
    swap(tmp_path / "set", plan_file("prepare"))
    with pytest.raises(StreamDiffVSRError, match="was changed after it was signed"):
        open_engines(tmp_path / "set")
