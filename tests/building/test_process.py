"""A build in a process of its own: it does the same, and however it ends is one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from io import BytesIO, FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from streamdiffvsr.building import builder, builder_child, memory, spec
from streamdiffvsr.building.spec import BuildSpec
from streamdiffvsr.engines.manifest import EngineKey, read_manifest
from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.graphs.plan import make_plan
from streamdiffvsr.runtime.processes import bootstrap, messages

pytest.importorskip("torch", reason="engines are built with the export extra")

# The child's first line: its graphs have to be exported, or are there already.
AT_WORK = ("load weights", "make the graphs")
EXECUTE_IN_CHILD = builder.execute_in_child  # before the tests' own fixture replaces it


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "execute_in_child", EXECUTE_IN_CHILD)


@pytest.fixture
def child() -> Callable[[], psutil.Process]:
    """Returns a function that finds the process the test started among those already running."""
    before = set(psutil.Process().children())

    def find() -> psutil.Process:
        (only,) = set(psutil.Process().children()) - before
        return only

    return find


def build(model: Path, out: Path, progress: Any) -> Path:
    return builder.build(model, size=(32, 32), out=out / "set", progress=progress)


def an_order(model: Path) -> BuildSpec:
    key, plan = EngineKey(*"abcd", "fp32", 4, "torch", "cuda", *"efg", 1), make_plan((48, 64))
    return BuildSpec(model, model, key, "m", plan.geometry, "all-pairs", "cuda:1", None, 0.0)


def left(out: Path) -> list[str]:
    return [path.name for path in out.iterdir() if not path.name.endswith(".lock")]


@pytest.mark.slow
def test_it_builds_the_same_set(parity_model, tmp_path):
    said: list[str] = []
    before = set(psutil.Process().children())
    folder = build(parity_model, tmp_path, said.append)
    assert read_manifest(folder).gate == "passed"
    assert "make the graphs of 32x32" in said and "check decode" in said
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, "the system killed it, as it does when memory runs out"),
        pytest.param(signal.SIGSEGV, "it crashed with SIGSEGV", marks=pytest.mark.slow),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="ends by signals")
def test_a_build_that_dies_is_one_line_and_leaves_nothing(
    parity_model, tmp_path, child, number, told
):
    def progress(line: str) -> None:
        if line.startswith(AT_WORK):
            child().send_signal(number)

    with pytest.raises(StreamDiffVSRError, match=told) as caught:
        build(parity_model, tmp_path, progress)
    assert "64x48" not in str(caught.value) and "32x32" in str(caught.value)
    assert "\n" not in str(caught.value) and left(tmp_path) == []


@pytest.mark.slow
def test_ctrl_c_ends_the_child_too(parity_model, tmp_path, child):
    children = []

    def progress(line: str) -> None:
        if line.startswith(AT_WORK):
            children.append(child())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(parity_model, tmp_path, progress)
    assert not children[0].is_running() and left(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
def test_the_child_ends_with_a_parent_that_is_killed(parity_model, tmp_path):
    code = (
        "import os, sys, psutil; from streamdiffvsr.building import builder\n"
        "def told(line):\n"
        "  if line.startswith(('load weights', 'make the graphs')):\n"
        "    print(psutil.Process().children()[0].pid, flush=True); os.kill(os.getpid(), 9)\n"
        "builder.build(sys.argv[1], size=(32, 32), out=sys.argv[2], progress=told)\n"
    )
    command = [sys.executable, "-c", code, str(parity_model), str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True)
    pid, deadline = int(done.stdout), time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            break  # of a container without an init that collects them
        time.sleep(0.05)
    else:
        assert not psutil.pid_exists(pid)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
def test_eight_builders_of_one_set_make_it_once_though_one_is_killed(parity_model, tmp_path):
    code = (
        "import sys; from streamdiffvsr.building import builder\n"
        "def told(line): print(line, flush=True)\n"
        "builder.build(sys.argv[1], size=(32, 32), out=sys.argv[2], progress=told)\n"
    )
    command = [sys.executable, "-c", code, str(parity_model), str(tmp_path / "set")]
    lines: list[list[str]] = [[] for _ in range(8)]
    killed: list[int] = []

    def follow(index: int, process: Any) -> None:
        for line in process.stdout:
            lines[index].append(line.strip())
            if line.startswith(AT_WORK) and not killed:
                killed.append(index)
                process.kill()

    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in lines
    ]
    threads = [threading.Thread(target=follow, args=pair) for pair in enumerate(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = [process.wait() for process in processes]
    (dead,) = killed
    assert codes[dead] == -signal.SIGKILL
    assert [code for index, code in enumerate(codes) if index != dead] == [0] * 7, lines
    ends = [said[-1].split()[0] for index, said in enumerate(lines) if index != dead]
    assert sorted(ends) == ["built"] + ["up"] * 6
    assert read_manifest(tmp_path / "set").gate == "passed"
    assert left(tmp_path) == ["set"]


def test_errors_arrive_as_they_were_raised(parity_model, tmp_path):
    (tmp_path / "model").mkdir()
    for path in parity_model.rglob("*"):
        if path.is_file():
            (tmp_path / "model" / path.relative_to(parity_model)).parent.mkdir(exist_ok=True)
            os.link(path, tmp_path / "model" / path.relative_to(parity_model))
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[: len(data) // 2])
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(StreamDiffVSRError, match="unet") as caught:
        build(tmp_path / "model", out, lambda line: None)
    assert type(caught.value) is StreamDiffVSRError and left(out) == []


@pytest.mark.parametrize(
    ("raised", "kind", "told"),
    [
        (StreamDiffVSRError("w", "y", "do"), StreamDiffVSRError, "w: y; do"),
        (UsageError("w", "y", "do"), UsageError, "w: y; do"),
        (MemoryError("8 GiB"), MemoryError, "8 GiB"),
        (KeyError("k"), RuntimeError, "KeyError: 'k'"),
    ],
)
def test_every_kind_of_error_crosses_the_pipe(parity_model, monkeypatch, raised, kind, told):
    order = an_order(parity_model)

    def fail(order: BuildSpec, progress: Any) -> None:
        raise raised

    def started(*_: object) -> Any:
        """In place of the process: what it would send is in the pipe already."""
        receiving, sending = os.pipe()
        with FileIO(sending, "wb") as outbox:
            try:
                builder_child.serve(order.to_json(), FileIO(os.devnull), outbox)
            except StreamDiffVSRError as error:
                messages.send(outbox, {"kind": "error", **bootstrap._fields(error, "")})
        process = SimpleNamespace(
            stdin=FileIO(os.devnull, "wb"),
            stdout=FileIO(receiving, "rb"),
            kill=lambda: None,
            wait=lambda: 0,
        )
        return process, BytesIO()

    monkeypatch.setattr(builder_child, "execute", fail)
    monkeypatch.setattr(messages, "end_with_parent", lambda inbox: None)
    monkeypatch.setattr("streamdiffvsr.runtime.processes.child._start", started)
    with pytest.raises(kind) as caught:
        builder.execute_in_child(order, print)
    assert type(caught.value) is kind and told in str(caught.value)


@pytest.mark.parametrize(
    ("code", "told"), [(-6, "SIGABRT"), (1, "code 1"), (0xC0000005, "0xc0000005")]
)
def test_the_ends_of_processes_in_words(code, told):
    assert told in builder.ending(code)


def test_a_build_that_cannot_fit_is_refused_before_it_begins(parity_model, tmp_path, monkeypatch):
    Memory = namedtuple("Memory", "available free")
    little = Memory(2**28, 0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    monkeypatch.setattr(psutil, "swap_memory", lambda: little)
    said: list[str] = []
    with pytest.raises(StreamDiffVSRError, match=r"in 0\.2 GiB of free memory: it takes at least"):
        build(parity_model, tmp_path, said.append)
    assert "load weights" not in said and left(tmp_path) == []


def test_an_order_names_the_gpu_of_the_child(parity_model, monkeypatch):
    order = an_order(parity_model)
    assert BuildSpec.from_json(json.loads(json.dumps(order.to_json()))) == order
    given: dict[str, Any] = {}
    monkeypatch.setattr(spec, "export", lambda order, progress: None)
    monkeypatch.setattr(spec, "accept_graphs", lambda *_, **keywords: given.update(keywords))
    spec.execute(order, print)
    assert given["device"] == "cuda:1"


def test_the_estimate_counts_weights_as_torch_will_hold_them(tmp_path):
    half, other = tmp_path / "half.safetensors", tmp_path / "flow.pth"
    save_file({"w": np.zeros((1000, 1000), np.float16)}, half)
    other.write_bytes(bytes(10**6))
    (tmp_path / "damaged.safetensors").write_bytes(b"?" * 10**6)
    onnx = EngineKey("", "", "", "", "fp32", 4, "onnxruntime", "cpu", "", "", 1)
    plans = EngineKey("", "", "", "", "fp32", 4, "tensorrt-rtx", "cuda", "1", "sm89", 1)

    def above_base(key: EngineKey) -> int:
        return memory.estimated_bytes(tmp_path.iterdir(), key) - memory.BASE_BYTES

    assert above_base(onnx) == pytest.approx(1.1 * 6e6, rel=1e-3)
    assert above_base(plans) == pytest.approx(2.5 * 6e6, rel=1e-3)
