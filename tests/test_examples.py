"""The scripts of examples/ do what they say, run as a user runs them and from Python."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

import streamdiffvsr
from streamdiffvsr.benchmarks.report.files import result_schema, violation
from streamdiffvsr.graphs.spec import DEFAULT_STEPS
from streamdiffvsr.tests.media.clips import Clip, see

EXAMPLES = Path(streamdiffvsr.__file__).resolve().parent / "examples"


@pytest.fixture(scope="module")
def upscaler(parity_engines: Path) -> streamdiffvsr.Upscaler:
    """The recorded model's engines, which other tests have built already."""
    return streamdiffvsr.load(parity_engines)


@pytest.fixture
def recorded_engines(
    upscaler: streamdiffvsr.Upscaler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The examples take those engines in place of the built-in model's, and write to a folder."""

    def build(model: str, *, size: tuple[int, int], progress: object) -> Path:
        assert (model, tuple(size)) == ("tiny", (48, 64)) and callable(progress)
        return tmp_path

    monkeypatch.setitem(vars(streamdiffvsr), "build", build)
    monkeypatch.setitem(vars(streamdiffvsr), "load", lambda engines: upscaler)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("recorded_engines")
class TestInThisProcess:
    def test_one_frame(self, capsys: pytest.CaptureFixture[str]) -> None:
        import_module("streamdiffvsr.examples.one_frame").main()
        assert Image.open("one_frame.png").size == (256, 192)
        assert capsys.readouterr().out == "one_frame.png: 256x192\n"

    def test_a_video_file(self) -> None:
        source = Clip(sounds=[("aac", 48000)]).write(Path("in.mp4"))
        import_module("streamdiffvsr.examples.video_file").main(str(source), "out.mp4", frames=1)
        seen = see(Path("out.mp4"))
        assert [(image.height, image.width) for image in seen.images] == [(192, 256)]
        assert len(seen.sounds) == 1

    @pytest.mark.slow
    def test_every_frame_of_a_camera_reaches_the_function(self) -> None:
        pytest.importorskip("tenacity", reason="of the live extra")
        shown: list[tuple[tuple[int, ...], float]] = []
        example = import_module("streamdiffvsr.examples.camera_callback")
        example.main(on_frame=lambda image, s: shown.append((image.shape, s)), frames=2)
        assert [shape for shape, _ in shown] == [(192, 256, 3)] * 2
        assert shown[0][1] < shown[1][1]

    @pytest.mark.slow
    def test_a_saved_state_goes_on_as_if_nothing_had_happened(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import_module("streamdiffvsr.examples.save_and_resume").main()
        assert capsys.readouterr().out.endswith("the next frame is the same\n")


SCRIPTS = {  # the arguments, and how the last line begins
    "one_frame": ((), "one_frame.png: 256x192"),
    "video_file": (("in.mp4", "out.mp4"), "out.mp4: 4 frames at "),
    "camera_callback": ((), ""),
    "save_and_resume": ((), "stream.safetensors: the next frame is the same"),
    "benchmark": ((), "noisy: "),
}


def test_every_script_is_run_here() -> None:
    assert set(SCRIPTS) == {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_as_a_script_with_the_built_in_model(
    name: str, tmp_path: Path, shared_folder: Path
) -> None:
    """The first of them builds the engines, the others find them in the cache."""
    Clip().write(tmp_path / "in.mp4")
    arguments, last = SCRIPTS[name]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"STREAMDIFFVSR_CACHE": str(shared_folder / "examples-cache")},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith(last)
    if name == "camera_callback":
        assert sum(": 256x192, mean " in line for line in lines) == 5
    if name == "benchmark":
        result = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))
        assert violation(result, result_schema()) is None and result["complete"]


def test_the_manual_names_the_modules_that_examples_import_and_every_parameter() -> None:
    page = (EXAMPLES.parent / "docs" / "api.md").read_text(encoding="utf-8")
    for script in EXAMPLES.glob("*.py"):
        for module in re.findall(r"^from (streamdiffvsr\.\S+)", script.read_text(), re.MULTILINE):
            assert f"`{module}`" in page, f"{script.name} imports {module}"
    for function in (streamdiffvsr.build, streamdiffvsr.load):
        for name in inspect.signature(function).parameters:
            assert f"\n        {name}: " in inspect.getsource(function), name
    assert f"`DEFAULT_STEPS` is {DEFAULT_STEPS}." in page
