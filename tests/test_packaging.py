"""Tests what is installed: every package, nothing else, and extras that keep apart."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version as installed_version
from pathlib import Path

import pytest

import streamdiffvsr

tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")

ROOT = Path(streamdiffvsr.__file__).resolve().parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Every module of the root is part of the package: a new one is added here on purpose.
# ComfyUI-Manager runs install.py, and looks for it there.
ROOT_MODULES = {"__init__", "_about", "durable", "errors", "install"}
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
        names = {requirements.Requirement(line).name.lower().replace("_", "-") for line in wanted}
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
        for folder in ("assets", "models", "benchmarks/report/page", "runtime/live/preview/page")
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
        assert file.stat().st_size < 14_000_000, f"{file.name} is what everybody downloads"
