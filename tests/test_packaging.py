"""Tests what is installed: every package, nothing else, and extras that keep apart."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import streamdiffvsr

tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")

ROOT = Path(streamdiffvsr.__file__).resolve().parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Every module of the root is part of the package: a new one is added here on purpose.
# ComfyUI-Manager runs install.py, and looks for it there.
ROOT_MODULES = {"__init__", "_about", "durable", "errors", "install", "reading"}
NOT_PACKAGES = {"tests", "research", "examples", "build", "dist"}  # run from a checkout


def packages_on_disk() -> set[str]:
    found = set()
    for folder, names, files in os.walk(ROOT):
        inside = Path(folder).relative_to(ROOT)
        names[:] = [n for n in names if not n.startswith(".") and n != "__pycache__"]
        if inside == Path():
            names[:] = [n for n in names if n not in NOT_PACKAGES]
        if "__init__.py" in files:
            found.add(".".join(("streamdiffvsr", *inside.parts)))
    return found


def test_every_package_is_listed():
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages_on_disk()


def test_no_stray_module_at_the_root():
    assert {path.stem for path in ROOT.glob("*.py")} == ROOT_MODULES


def test_one_version():
    assert PROJECT["project"]["version"] == streamdiffvsr.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {streamdiffvsr.__version__}" in citation


def test_the_licence_is_the_whole_text():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


def test_no_extra_installs_the_two_onnxruntimes_over_each_other():
    extras = PROJECT["project"]["optional-dependencies"]
    names = {
        extra: {re.split(r"[\[>=]", line)[0].strip() for line in lines}
        for extra, lines in extras.items()
    }
    assert set(names) == {
        "cpu",
        "cuda",
        "tensorrt",
        "tensorrt-rtx",
        "export",
        "fp8",
        "train",
        "bench",
        "live",
        "whip",
        "dev",
    }
    holders = {
        package: {extra for extra, held in names.items() if package in held}
        for package in ("onnxruntime", "onnxruntime-gpu", "torch")
    }
    assert holders == {"onnxruntime": {"cpu"}, "onnxruntime-gpu": {"cuda"}, "torch": {"export"}}


PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def test_every_dependency_has_one_pin_for_each_python():
    requirements = pytest.importorskip("packaging.requirements", reason="of the dev extra")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [requirements.Requirement(text) for line in lines if (text := line.partition("#")[0])]
    for python in PYTHONS:
        valid = [
            pin.name.lower().replace("_", "-")
            for pin in pins
            if pin.marker is None or pin.marker.evaluate({"python_version": python})
        ]
        assert len(valid) == len(set(valid)), python
        project = PROJECT["project"]
        extras = project["optional-dependencies"]
        wanted = [*project["dependencies"], *extras["cpu"], *extras["cuda"], *extras["live"]]
        parsed = [requirements.Requirement(line) for line in wanted]
        names = {
            one.name.lower().replace("_", "-")
            for one in parsed
            if one.marker is None or one.marker.evaluate({"python_version": python})
        }
        assert names <= set(valid), "the images are made from pins alone"
    for pin in pins:
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier))
    assert "torch==2.13.0" in lines


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    """A copy of this checkout to build in: a build writes next to what it builds."""
    if int(installed_version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77, see the dev extra")
    copy = tmp_path_factory.mktemp("checkout") / "a-name_1"
    junk = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "demo-out")
    shutil.copytree(ROOT, copy, ignore=junk)
    return copy


@pytest.fixture(scope="session")
def wheel(checkout) -> Path:
    """A wheel of this checkout."""
    return built("wheel", checkout)


def built(kind: str, folder: Path) -> Path:
    """The wheel or sdist that is built from a folder."""
    build = f"from setuptools.build_meta import build_{kind}; print(build_{kind}('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=folder, capture_output=True, text=True, env=_no_path()
    )
    assert done.returncode == 0, done.stderr
    assert "Deprecat" not in done.stderr and "Warning" not in done.stderr, done.stderr
    return folder / "dist" / done.stdout.splitlines()[-1]


def _no_path() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    code = {name for name in names if ".dist-info/" not in name}
    modules = {
        (Path("streamdiffvsr") / path.relative_to(ROOT)).as_posix()
        for package in packages_on_disk()
        for path in (ROOT / Path(*package.split(".")[1:])).glob("*.py")
    }
    data = {
        (Path("streamdiffvsr") / path.relative_to(ROOT)).as_posix()
        for folder in (
            *("assets", "models", "benchmarks/report/page"),
            *("runtime/live/preview/page", "runtime/live/preview/grid"),
        )
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    assert "streamdiffvsr/models/tiny/unet/config.json" in data
    data.add("streamdiffvsr/benchmarks/result_schema.json")
    assert code == modules | data | {"streamdiffvsr/py.typed"}
    assert "streamdiffvsr/models/tiny/graphs/graphs.json" in data
    # Half of it are the built-in model's graphs, so that nothing has to be exported to run it.
    assert sum(info.file_size for info in zipfile.ZipFile(wheel).infolist()) < 17_000_000


def test_the_wheel_runs_where_there_is_no_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "streamdiffvsr.cli", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=_no_path(),
    )
    assert (done.returncode, done.stdout) == (0, f"streamdiffvsr {streamdiffvsr.__version__}\n")


@pytest.mark.slow
def test_the_sdist_is_small_and_makes_the_same_wheel(checkout, wheel, tmp_path):
    sdist = built("sdist", checkout)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (inside,) = tmp_path.iterdir()
    top = {path.name for path in inside.iterdir()}
    assert top.isdisjoint({"tests", "docs", "research", "examples", "example_workflows", "tools"})
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "constraints.txt"} <= top
    again = zipfile.ZipFile(built("wheel", inside))
    first = zipfile.ZipFile(wheel)
    contents = [
        {info.filename: info.CRC for info in one.infolist() if ".dist-info/" not in info.filename}
        for one in (first, again)
    ]
    assert contents[0] == contents[1]
    for file in (sdist, wheel):
        assert file.stat().st_size < 11_000_000, f"{file.name} is what everybody downloads"


class LightInstallation:
    """A virtual environment with the wheel and what `cpu` brings, used far from any checkout."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.EnvBuilder(with_pip=True).create(folder / "env")
        self.folder, self._wheel = folder, wheel
        self._bin = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        self._env = {
            **_no_path(),
            "STREAMDIFFVSR_CACHE": str(folder / "cache"),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self.add("cpu")

    def add(self, extras: str) -> None:
        pip = [self._bin / "python", "-m", "pip", "install", "-q", "--no-input"]
        what = f"streamdiffvsr[{extras}] @ {self._wheel.as_uri()}"
        pins = ROOT / "constraints.txt"
        done = subprocess.run(
            [*pip, "-c", pins, what], capture_output=True, text=True, env=self._env
        )
        assert done.returncode == 0, done.stderr

    def run(self, program: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self._bin / program, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=self._env,
            cwd=self.folder,
        )


@pytest.fixture(scope="module")
def light(wheel, tmp_path_factory) -> LightInstallation:
    installed = LightInstallation(tmp_path_factory.mktemp("light"), wheel)
    pictures = installed.folder / "pictures"
    pictures.mkdir()
    for index in range(2):
        noise = np.random.default_rng(index).integers(0, 256, (128, 128, 3), np.uint8)
        Image.fromarray(noise).save(pictures / f"{index}.png")
    return installed


@pytest.mark.slow
def test_cpu_brings_neither_torch_nor_what_exports(light):
    listed = json.loads(light.run("python", "-m", "pip", "list", "--format=json").stdout)
    names = {entry["name"].lower().replace("_", "-") for entry in listed}
    assert {"streamdiffvsr", "onnx", "onnxruntime"} <= names
    others = {"torch", "transformers", "onnxscript", "onnx-graphsurgeon", "polygraphy"}
    assert not names & others
    assert len(names) < 40, "what everybody waits for"


@pytest.mark.slow
def test_the_demo_runs_on_it(light):
    done = light.run("streamdiffvsr", "demo", "--out", "demo", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["psnr"]["ours"] > result["psnr"]["bicubic"] + 0.3
    assert (light.folder / "demo/side_by_side.png").stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    ["", "--steps 2", "--flow-scale 1", "--flow-scale 2", "--flow-scale 4", "--tile 64x64"],
)
def test_the_built_in_model_upscales_on_it(light, options):
    out = light.folder / f"out{options}"
    done = light.run("streamdiffvsr", "upscale", "pictures", out, *options.split())
    assert done.returncode == 0, done.stderr
    assert [Image.open(path).size for path in sorted(out.iterdir())] == [(512, 512)] * 2


@pytest.mark.slow
def test_bench_runs_on_it(light):
    done = light.run("streamdiffvsr", "bench", "--quick", "--size", "64x48", "--json", "b.json")
    assert done.returncode == 0, done.stderr
    assert (light.folder / "b.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("options", ["--steps 3", "--precision fp16", "--model other"])
def test_what_has_to_be_exported_names_the_extra_in_a_line(light, options):
    if not (other := light.folder / "other").exists():
        shutil.copytree(ROOT / "models/tiny", other)
        config = other / "scheduler/scheduler_config.json"
        changed = {**json.loads(config.read_text(encoding="utf-8")), "own": True}
        config.write_text(json.dumps(changed), encoding="utf-8")
    done = light.run("streamdiffvsr", "upscale", "pictures", "never", *options.split())
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(errors) == 1
    assert errors[0] == done.stderr.splitlines()[-1]
    assert "not installed: torch" in errors[0]
    assert "run pip install 'streamdiffvsr[export]'" in errors[0]


@pytest.mark.slow
def test_live_names_its_extra_and_runs_with_it(light):
    live = ("live", "testsrc=64x48@5", "--to", "live.mkv", "--max-frames", "3")
    done = light.run("streamdiffvsr", *live)
    assert done.returncode == 1
    assert "run pip install 'streamdiffvsr[live]'" in done.stderr
    light.add("cpu,live")
    done = light.run("streamdiffvsr", *live)
    assert done.returncode == 0, done.stderr
    assert (light.folder / "live.mkv").stat().st_size > 0
    assert light.run("python", "-c", "import torch").returncode == 1
