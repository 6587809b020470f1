"""The loader and the unload node: models, engines used, and messages."""

import gc
import json
import sys
import weakref
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from streamdiffvsr.building import provider
from streamdiffvsr.comfyui import host, loader
from streamdiffvsr.comfyui.host import INSTALL
from streamdiffvsr.comfyui.nodes import NODE_CLASS_MAPPINGS as NODES
from streamdiffvsr.comfyui.pipe import EngineWish, Pipe
from streamdiffvsr.engines.registry import Choice
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.tests.comfyui.test_upscale import upscale

LOADER = NODES["StreamDiffVSR_Loader"]


@pytest.fixture
def local(comfy):
    folder = comfy.folder / "models" / "StreamDiffVSR" / "mine"
    folder.mkdir(parents=True)
    return folder


def test_local_models_are_offered_beside_the_released_and_the_built_in(comfy, local):
    assert loader.names() == ["v1", "v1-mix-degradation", "tiny", "mine"]


def test_a_local_folder_comes_before_what_would_be_fetched(comfy, local):
    assert loader.find("mine") == str(local)
    assert loader.find("v1") == "Jamichsu/Stream-DiffVSR"
    (local.parent / "v1").mkdir()
    assert loader.find("v1") == str(local.parent / "v1")
    assert loader.find("v1", local=False) == "Jamichsu/Stream-DiffVSR"
    assert loader.find(str(local)) == str(local)
    assert loader.find("someone/something") == "someone/something"


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"model_version": "v2"}, "there are v1, v1-mix-degradation, tiny; choose one of them"),
        ({"model_version": "v1", "use_huggingface": "false"}, "set use_huggingface to true"),
        ({"model_version": "v1", "model_path": "/no/such/folder"}, "choose one of them"),
    ],
)
def test_a_model_that_is_not_there_is_told_before_anything_runs(comfy, inputs, says):
    assert says in str(LOADER.VALIDATE_INPUTS(**inputs))


def test_a_model_that_is_there_is_valid(comfy, local):
    assert LOADER.VALIDATE_INPUTS(model_version="tiny", model_path=None) is True
    assert LOADER.VALIDATE_INPUTS(model_version="mine", use_huggingface="false") is True


@pytest.mark.parametrize("dtype", ["auto", "float16", "bfloat16", "float32"])
def test_on_a_cpu_every_dtype_is_float32(comfy, dtype):
    (pipe,) = LOADER().run("tiny", "auto", dtype, backend="onnxruntime", unique_id="1")
    assert (pipe.model, pipe.choice.precision, pipe.choice.device) == ("tiny", "fp32", "cpu")
    assert comfy.said[0].startswith("model tiny; backend: onnxruntime on the CPU, fp32")


def test_a_device_that_is_not_there_is_told_in_the_words_of_the_node(comfy, monkeypatch):
    monkeypatch.setattr("streamdiffvsr.engines.registry.why_not", lambda name, device: "no driver")
    with pytest.raises(StreamDiffVSRError, match="set device to auto or cpu"):
        LOADER().run("tiny", "cuda", "auto")


@pytest.mark.parametrize(
    ("own", "widget", "asked"),
    [
        (None, "auto", ("cpu", "cuda")),
        ("cuda:0", "auto", ("auto", "cuda")),
        ("cuda:1", "auto", ("auto", "cuda:1")),
        ("cuda:1", "cuda", ("cuda:1", "cuda:1")),
        ("cuda:1", "cuda:0", ("cuda:0", "cuda:1")),
        ("cuda:1", "cpu", ("cpu", "cuda:1")),
        (None, "cuda", ("cuda", "cuda")),
    ],
)
def test_the_gpu_is_comfyuis_own_unless_another_is_named(comfy, monkeypatch, own, widget, asked):
    seen = []

    def choose(backend, precision, device, *, gpu):
        seen.append((device, gpu))
        return Choice("onnxruntime", "fp32", "cpu")

    monkeypatch.setattr("streamdiffvsr.engines.registry.choose", choose)
    comfy.device = torch.device(own) if own else None
    LOADER().run("tiny", widget, "auto")
    assert seen == [asked]


def test_gpus_are_offered_by_their_numbers_where_there_are_several(comfy, monkeypatch):
    def offered():
        return LOADER.INPUT_TYPES()["required"]["device"][0]

    monkeypatch.setattr("streamdiffvsr.engines.host.gpu_count", lambda: 1)
    assert offered() == ["cuda", "cpu", "auto"]
    assert "choose among cuda, cpu, auto" in LOADER.VALIDATE_INPUTS("tiny", device="cuda:1")
    monkeypatch.setattr("streamdiffvsr.engines.host.gpu_count", lambda: 2)
    assert offered() == ["cuda", "cpu", "auto", "cuda:0", "cuda:1"]
    assert LOADER.VALIDATE_INPUTS("tiny", device="cuda:1") is True
    assert LOADER.VALIDATE_INPUTS("tiny", device=None) is True  # of a link
    monkeypatch.setitem(sys.modules, "streamdiffvsr.engines.host", None)
    assert offered() == ["cuda", "cpu", "auto"]


def test_engines_are_opened_and_room_is_made_on_that_gpu(comfy, opened):
    pipe = Pipe("tiny", Choice("onnxruntime", "fp16", "cuda:1"))
    assert pipe.upscaler(EngineWish((48, 64))).device == "cuda:1"
    assert comfy.freed_on == [torch.device("cuda", 1)]
    Pipe("tiny", Choice("onnxruntime", "fp16", "cuda")).upscaler(EngineWish((48, 64)))
    assert comfy.freed_on[1:] == [torch.device("cpu")]  # ComfyUI's own, whatever that is


def test_why_a_backend_is_passed_over_is_told_as_comfyuis_python_mends_it(comfy, monkeypatch):
    why = "libcublasLt.so.13 is missing: run pip install 'streamdiffvsr[cuda]'"
    choice = Choice("torch", "fp32", "cpu", (("onnxruntime", "cuda", why),))
    monkeypatch.setattr("streamdiffvsr.engines.registry.choose", lambda *_, **__: choice)
    LOADER().run("tiny", "cpu", "auto", unique_id="1")
    packages = '"onnxruntime-gpu[cuda,cudnn]" cuda-bindings'
    assert f'run "{sys.executable}" -m pip install {packages} and restart' in comfy.said[0]


@pytest.mark.parametrize(
    ("chosen", "absent", "hint"),
    [
        (("torch", "cpu"), {"onnxruntime", "tensorrt"}, f'run "{sys.executable}" "{INSTALL}" and'),
        (("torch", "cuda"), {"onnxruntime", "tensorrt"}, f'run "{sys.executable}" "{INSTALL}" and'),
        (("onnxruntime", "cuda"), {"tensorrt"}, "-m pip install tensorrt cuda-bindings and"),
        (("onnxruntime", "cpu"), {"tensorrt"}, ""),
        (("torch", "cpu"), set(), ""),
        (("tensorrt", "cuda"), set(), ""),
    ],
)
def test_the_node_names_the_one_command_that_makes_it_faster(
    comfy, monkeypatch, chosen, absent, hint
):
    backend, device = chosen
    better = tuple((name, device, "why") for name in ("tensorrt", "onnxruntime") if name != backend)
    choice = Choice(backend, "fp32", device, () if backend == "tensorrt" else better)
    monkeypatch.setattr("streamdiffvsr.engines.registry.choose", lambda *_, **__: choice)
    monkeypatch.setattr(host, "find_spec", lambda name: name not in absent or None)
    monkeypatch.setattr("streamdiffvsr.comfyui.loader.require", lambda backend: None)
    LOADER().run("tiny", "cpu", "auto", unique_id="1")
    said = comfy.said[0]
    assert said.startswith(f"model tiny; backend: {backend}")
    assert (hint in said and said.count("more speed") == 1) if hint else "more speed" not in said
    assert INSTALL.is_file()


def test_a_backend_that_is_not_installed_is_told_as_comfyuis_python_installs_it(comfy):
    """Into a clone's folder nothing is installed, so the package has no extras there."""
    if find_spec("tensorrt") is not None:
        pytest.skip("it is installed")
    with pytest.raises(StreamDiffVSRError) as told:
        LOADER().run("tiny", "cuda", "auto", backend="tensorrt", width=64, height=48)
    command = f'"{sys.executable}" -m pip install tensorrt cuda-bindings and restart ComfyUI'
    assert command in str(told.value)


def test_a_size_makes_engines_at_once(comfy, opened):
    LOADER().run("tiny", "cpu", "auto", backend="onnxruntime", width=64, height=48)
    assert opened == [(48, 64)]


def test_what_is_not_built_is_built_with_progress(comfy, opened, monkeypatch, caplog):
    caplog.set_level("INFO", logger="streamdiffvsr")

    def build(request, size, *, out, progress):
        progress("export decode")
        progress("compile decode 50%")
        opened.append(size)
        return Path("built")

    monkeypatch.setattr(provider, "find_set", lambda request, size: None)
    monkeypatch.setattr(provider, "build_set", build)
    pipe = Pipe("tiny", Choice("onnxruntime", "fp32", "cpu"))
    pipe.upscaler(EngineWish((48, 64)), "3")
    assert comfy.said[:2] == ["export decode", "compile decode 50%"]
    assert [shown[0] for shown in comfy.shown] == [1, 1]
    assert "export decode" in caplog.messages and "compile decode 50%" not in caplog.messages
    # All that ComfyUI can give for a build, and as much as a run needs for the engines.
    assert comfy.freed == [1e30, 123]


@pytest.mark.parametrize("sides", [{"width": 64}, {"height": 48}])
def test_one_side_alone_is_told(comfy, opened, sides):
    with pytest.raises(StreamDiffVSRError, match="give both sides of the input, or leave both 0"):
        LOADER().run("tiny", "cpu", "auto", backend="onnxruntime", **sides)
    assert opened == []


def test_no_name_is_no_model(comfy, local):
    assert "no model ''" in str(LOADER.VALIDATE_INPUTS(model_version=""))


def test_what_is_unloaded_behind_is_of_any_type():
    kind = NODES["StreamDiffVSR_Unload"].INPUT_TYPES()["optional"]["after"][0]
    (passed_on,) = NODES["StreamDiffVSR_Unload"].RETURN_TYPES
    for other in ("IMAGE", "STREAM_DIFFVSR_STATE", "VIDEO"):
        assert (other != kind) is False  # as ComfyUI asks, of what comes in
        assert (passed_on != other) is False  # and of what goes out
    assert json.dumps(kind) == '"*"'


def test_engines_are_kept_for_two_sizes_and_no_more(pipe, opened):
    for width in (64, 80, 64, 80, 96, 80, 64):
        pipe.upscaler(EngineWish((48, width)))
    assert opened == [(48, 64), (48, 80), (48, 96), (48, 64)]


def test_unloading_gives_the_engines_back(pipe, comfy, frames):
    images, state = upscale(pipe, frames[:2])
    engines = weakref.ref(pipe.upscaler(EngineWish((48, 64))))
    assert NODES["StreamDiffVSR_Unload"]().run(pipe=pipe, after=images) == (images,)
    gc.collect()
    assert engines() is None
    assert state.stream.has_previous  # and its holder did not keep them


def test_a_folder_that_is_no_model_is_one_line(comfy, local):
    pipe = Pipe(str(local), Choice("onnxruntime", "fp32", "cpu"))
    with pytest.raises(StreamDiffVSRError, match="mine"):
        pipe.upscaler(EngineWish((48, 64)))
