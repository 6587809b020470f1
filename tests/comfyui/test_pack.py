"""ComfyUI can import this folder under any name, and without any of the requirements."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import streamdiffvsr

ROOT = Path(streamdiffvsr.__file__).resolve().parent
NAMES = {
    "StreamDiffVSR_Loader",
    "StreamDiffVSR_Upscale",
    "StreamDiffVSR_UpscaleVideo",
    "StreamDiffVSR_ProcessFrame",
    "StreamDiffVSR_CreateState",
    "StreamDiffVSR_ExtractState",
    "StreamDiffVSR_SaveState",
    "StreamDiffVSR_LoadState",
    "StreamDiffVSR_Unload",
}
# ComfyUI's own steps with a folder of custom_nodes, where only the standard library is installed.
LOADER = """
import importlib.util, json, sys, time

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if path is None and name not in sys.stdlib_module_names and name != "streamdiffvsr":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
folder = sys.argv[1]
started = time.perf_counter()
name = folder.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, folder + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
assert not hasattr(module, "WEB_DIRECTORY")
nodes = module.NODE_CLASS_MAPPINGS
shown = module.NODE_DISPLAY_NAME_MAPPINGS
seconds = time.perf_counter() - started
told = {}
for key in ("StreamDiffVSR_CreateState", "StreamDiffVSR_Unload", "StreamDiffVSR_Upscale"):
    try:
        required = nodes[key].INPUT_TYPES()["required"]
        getattr(nodes[key](), nodes[key].FUNCTION)(**{name: None for name in required})
    except Exception as error:
        told[key] = f"{type(error).__name__}: {error}"
print(json.dumps({"names": list(nodes), "shown": shown, "seconds": seconds, "told": told}))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """By a link whose name is no identifier, in a process that has no other way to this package."""
    link = tmp_path_factory.mktemp("custom_nodes") / "my node.1"
    link.symlink_to(ROOT, target_is_directory=True)
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(link)],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_node_is_there_with_a_name_to_show(loaded):
    assert set(loaded["names"]) == set(loaded["shown"]) == NAMES
    assert all("Stream-DiffVSR" in name for name in loaded["shown"].values())


def test_the_import_is_quick(loaded):
    assert loaded["seconds"] < 0.3


def test_a_node_says_what_to_install(loaded):
    line = loaded["told"]["StreamDiffVSR_CreateState"]
    assert line.startswith("StreamDiffVSRError: this node cannot run yet")
    assert f'-m pip install -r "{ROOT / "requirements.txt"}" and restart ComfyUI' in line


def test_requirements_have_all_that_nodes_need_and_leave_comfyuis_own_alone():
    from streamdiffvsr.comfyui.host import ALWAYS, FOR_GRAPHS

    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = {line.split(">")[0].split(";")[0].strip() for line in lines if line[:1] not in "#"}
    modules = {name.replace("-", "_") for name in listed}
    assert {*ALWAYS, *FOR_GRAPHS} - modules == {"torch"}
    assert not listed & {"torch", "torchvision", "onnxruntime", "onnxruntime-gpu", "tensorrt"}
