"""What a request leaves open is chosen for this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamdiffvsr.building import builder
from streamdiffvsr.building.request import BuildRequest
from streamdiffvsr.engines import host, registry
from streamdiffvsr.engines.registry import Choice
from streamdiffvsr.errors import StreamDiffVSRError


@pytest.mark.parametrize(
    ("model", "precision", "missing", "chosen"),
    [
        (None, None, ["torch"], "fp32"),  # the built-in model's own graphs
        ("tiny", None, ["torch"], "fp32"),
        ("tiny", None, [], "fp16"),
        ("tiny", "fp16", ["torch"], "fp16"),
        ("owner/name", None, ["torch"], "fp16"),
    ],
)
def test_without_torch_the_built_in_model_has_the_precision_of_its_graphs(
    monkeypatch: pytest.MonkeyPatch,
    model: str | None,
    precision: str | None,
    missing: list[str],
    chosen: str,
) -> None:
    monkeypatch.setattr(host, "missing_export", lambda: missing)
    on_gpu = Choice("onnxruntime", precision or "fp16", "cuda")
    monkeypatch.setattr(registry, "choose", lambda *_: on_gpu)
    request = BuildRequest(model=model, precision=precision)
    assert request.choice().precision == chosen
    assert request.settled().precision == chosen


def test_without_the_library_of_the_reference_a_build_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    monkeypatch.setattr(builder, "find_spec", lambda name: None)
    said: list[str] = []
    with pytest.raises(StreamDiffVSRError, match="onnxruntime, which computes the reference") as e:
        builder.build(
            "tiny",
            size=(48, 64),
            backend="tensorrt-rtx",
            device="cuda",
            out=tmp_path / "set",
            progress=said.append,
        )
    assert "\n" not in str(e.value) and said == []
