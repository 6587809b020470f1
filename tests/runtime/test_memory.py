"""Tests that a run's memory is reported before, near the truth, and stops what cannot fit."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import streamdiffvsr
from streamdiffvsr.engines import host
from streamdiffvsr.engines.manifest import EngineKey, FileEntry, Manifest, read_manifest
from streamdiffvsr.errors import StreamDiffVSRError, said
from streamdiffvsr.graphs.plan import correlation_bytes, make_plan
from streamdiffvsr.graphs.spec import GraphSet, ModelDims, Size
from streamdiffvsr.runtime import memory
from streamdiffvsr.runtime.memory import (
    Preflight,
    check_memory,
    check_memory_fit,
    fitting,
    footprint,
    resized,
)

MIB = 2**20
DIMS = ModelDims(latent=4, hint=32, fmap=256, context=256, temporal=((16, 1), (16, 2), (16, 4)))
SIZE = (180, 320)
# Bytes for each pixel of the input, of the recorded model.
ALIVE = {"prepare": 384, "features": 3072, "guide": 1536, "temporal": 3072, "denoise": 2280}
ALIVE |= {"decode": 4096}


def manifest_of(size: Size = SIZE, device: str = "cpu", **plan: Any) -> Manifest:
    """A set of the recorded model, as an export would describe it."""
    planned = make_plan(size, **plan)
    pixels = planned.geometry.padded[0] * planned.geometry.padded[1]
    volume = 0
    if planned.correlation == "all-pairs":
        volume = correlation_bytes(size, planned.geometry.flow_scale)
    coarse = planned.geometry.flow_scale**2
    alive = {name: count * pixels for name, count in ALIVE.items()}
    alive["features"] //= coarse
    alive["flow"] = 2 * volume + 2000 * pixels // coarse
    graphs = GraphSet(
        planned.geometry, "fp32", DIMS, 4, planned.correlation, "0" * 64, {}, activation_bytes=alive
    )
    key = EngineKey("", "", "", "", "fp32", 4, "onnxruntime", device, "", "", 2)
    files = {"denoise.onnx": FileEntry("", 43 * MIB), "flow.golden.safetensors": FileEntry("", MIB)}
    return Manifest(key, "m", graphs, "1", "0", "Linux", "", 1.0, files, "passed", {})


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what is free on this machine, in MiB."""

    def set_free(mebibytes: int) -> None:
        monkeypatch.setattr(memory, "free_host_bytes", lambda: mebibytes * MIB)
        monkeypatch.setattr(memory, "free_device_bytes", lambda ordinal: mebibytes * MIB)

    return set_free


MEASURE = """
import json, sys
import numpy as np, streamdiffvsr
from streamdiffvsr.benchmarks.machine import peak_memory_mb
upscaler = streamdiffvsr.load(sys.argv[1])
frames = (np.full((*upscaler.size, 3), 50 * i, np.uint8) for i in range(2))
for _ in upscaler.stream(frames, overlap=sys.argv[2] == "overlapped"):
    pass
print(json.dumps(peak_memory_mb()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak that was measured")
@pytest.mark.parametrize("way", ["plain", pytest.param("overlapped", marks=pytest.mark.slow)])
def test_the_estimate_is_near_the_peak(parity_engines: Path, way: str) -> None:
    command = [sys.executable, "-c", MEASURE, str(parity_engines), way]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    peak = MIB * json.loads(done.stdout)
    estimate = footprint(read_manifest(parity_engines), overlapped=way == "overlapped").total
    assert 0.8 < estimate / peak < 1.6


def test_what_a_run_is_told(free: Any) -> None:
    free(22_630)
    line = Preflight(footprint(manifest_of()), 22_630 * MIB).describe()
    assert line.startswith("memory: about ")
    assert " of 22.1 GiB free (engines 56 MiB, flow's correlation 1055 MiB, buffers " in line
    assert "not be enough" not in line
    tight = Preflight(footprint(manifest_of()), 2000 * MIB)
    assert tight.tight and tight.describe().endswith("; that may not be enough")
    elsewhere = Preflight(footprint(manifest_of(device="cuda")), None)  # for a GPU that is not here
    assert "free" not in elsewhere.describe() and "pinned on the host" in elsewhere.describe()
    assert elsewhere.to_json()["total"] == elsewhere.needs.total


def test_buffers_are_counted_once_for_each_frame_in_flight() -> None:
    one = footprint(manifest_of())
    three = footprint(manifest_of(), overlapped=True)
    frame_bytes = 180 * 320 * 3
    assert one.buffers > 2 * 16 * 4 * frame_bytes  # the output and the one before it, at least
    assert 2.5 < three.buffers / one.buffers < 3
    assert three.scratch > one.scratch - one.correlation
    tiled = manifest_of(tile=(64, 96))
    assert footprint(tiled, overlapped=True) == footprint(tiled)  # tiles are never overlapped


def test_only_what_certainly_cannot_fit_is_refused(free: Any) -> None:
    manifest = manifest_of()
    needs = footprint(manifest).total // MIB
    for enough in (needs + 1, int(0.7 * needs)):  # our estimate may be wrong: the user goes on
        free(enough)
        check_memory(manifest)
    free(needs // 2)
    with pytest.raises(StreamDiffVSRError, match=f"fit in {needs // 2} MiB of free memory") as told:
        check_memory(manifest)
    assert "at least" in told.value.why
    assert "flow_scale=2 or " in told.value.remedy and "size=(" in told.value.remedy


def test_the_memory_is_that_of_the_gpu_it_would_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {0: 2**40, 1: 2**20}
    monkeypatch.setattr(memory, "free_device_bytes", lambda ordinal: free[ordinal])
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 2**40)
    manifest = manifest_of(device="cuda")
    for there in (None, "cuda", "cuda:0"):
        check_memory(manifest, there)
    with pytest.raises(StreamDiffVSRError, match="fit in 1 MiB of free memory on the GPU"):
        check_memory(manifest, "cuda:1")
    check_memory(manifest_of(), "cuda:1")  # a CPU's set, which is refused as such


def test_what_is_offered_fits_and_is_the_mildest() -> None:
    manifest = manifest_of()
    offers = [said(offer) for offer in fitting(manifest, 700 * MIB)]
    assert offers[0] == "flow_scale=2"
    size = next(o.removeprefix("size=") for o in offers if o.startswith("size="))
    height, width = ast.literal_eval(size)
    assert footprint(manifest_of((height, width))).total < 700 * MIB
    larger = (height + 24, width + 40)  # the next eighth
    assert footprint(manifest_of(larger)).total > 700 * MIB
    assert not any(o.startswith("tile=") for o in offers)  # flow is what is large, not the frame
    wide = manifest_of((360, 640), flow_scale=4)  # and here the frame is
    assert said(next(fitting(wide, 1300 * MIB))) == "tile=(180, 320)"
    assert list(fitting(manifest, 100 * MIB)) == []


def test_a_set_at_another_geometry_is_scaled_to_what_it_would_be() -> None:
    manifest = manifest_of()
    for plan in (make_plan((90, 160)), make_plan(SIZE, flow_scale=2), make_plan((720, 1280))):
        geometry = plan.geometry
        graphs = resized(manifest.graphs, geometry, plan.correlation)
        scaled = footprint(replace(manifest, graphs=graphs))
        size, scale, tile = geometry.size, geometry.flow_scale, geometry.tile
        if tile is None:
            true = footprint(manifest_of(size, flow_scale=scale))
            assert scaled.total == pytest.approx(true.total, rel=0.05)
        else:  # 198 GiB if the volume were stored
            assert scaled.total < 12 * 2**30


def test_a_set_that_does_not_fit_is_not_loaded(
    parity_engines: Path, free: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamdiffvsr.runtime import upscaler

    opened: list[Path] = []
    monkeypatch.setattr(upscaler, "open_engines", opened.append)
    free(50)
    with pytest.raises(StreamDiffVSRError, match="does not fit in 50 MiB of free memory"):
        streamdiffvsr.load(parity_engines)
    assert opened == []
    assert check_memory_fit(parity_engines).tight


def test_a_containers_limit_is_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    many = SimpleNamespace(available=8 * 2**30, free=2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: many)
    monkeypatch.setattr(psutil, "swap_memory", lambda: many)
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    assert host.free_host_bytes() == 9 * 2**30  # no control groups
    (tmp_path / "memory.current").write_text(f"{3 * 2**30}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {2**30}\nfile 7\n")
    for limit, expected in (("max", 9), (str(4 * 2**30), 2), (str(2**40), 9)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert host.free_host_bytes() == expected * 2**30
