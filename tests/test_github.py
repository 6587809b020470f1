"""The files of .github/: their schemas, what they pin, and what they run."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import streamdiffvsr

yaml = pytest.importorskip("yaml", reason="of the dev extra")

ROOT = Path(streamdiffvsr.__file__).resolve().parent
GITHUB = ROOT / ".github"
WORKFLOWS = {path.stem: path for path in sorted((GITHUB / "workflows").glob("*.yml"))}
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in loaded(WORKFLOWS[name])["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", "workflows/*.yml"),
        ("dependabot", "dependabot.yml"),
        ("github-issue-forms", "ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", "ISSUE_TEMPLATE/config.yml"),
    ],
)
def test_files_follow_their_schemas(schema, files):
    pytest.importorskip("check_jsonschema", reason="of the dev extra")
    paths = sorted(GITHUB.glob(files))
    assert paths
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_a_workflow_for_each_purpose():
    assert set(WORKFLOWS) == {"ci", "nightly", "gpu", "release", "comfy"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_do_little_and_pins_what_it_uses(name):
    workflow = loaded(WORKFLOWS[name])
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 360
        for step in job["steps"]:
            if used := step.get("uses"):
                assert re.search(r"@(v\d+|release/v\d+|[0-9a-f]{40})$", used), used
            # What others can write, such as a title, never becomes part of a script.
            assert "${{ github.event" not in step.get("run", "")


def test_the_tests_run_on_three_systems_and_every_python():
    job = loaded(WORKFLOWS["ci"])["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert [system.split("-")[0] for system in matrix["os"]] == ["ubuntu", "windows", "macos"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={PYTHONS[0]}"' in project


def test_a_release_is_published_by_trust_and_not_by_a_secret():
    text = WORKFLOWS["release"].read_text(encoding="utf-8")
    publish = loaded(WORKFLOWS["release"])["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert "secrets." not in text and "password" not in text


def test_strangers_cannot_run_code_on_the_gpu_runner():
    workflow = loaded(WORKFLOWS["gpu"])
    assert set(workflow[True]) == {"workflow_dispatch", "schedule"}  # YAML's word for `on`
    assert "self-hosted" in workflow["jobs"]["gpu"]["runs-on"]


def test_what_the_workflows_run_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = [
        shlex.split(line, comments=True)
        for name in WORKFLOWS
        for step in steps(name)
        for line in re.sub(r"\\\n", " ", step.get("run", "")).splitlines()
        if "$(" not in line and line.count("'") % 2 == 0
    ]
    for words in commands:
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words
        if words[:1] == ["sh"] or words[:1] == [".ci/run"]:
            assert (ROOT / words[-1]).is_file(), words
        if words[:2] == ["docker", "build"]:
            target = words[words.index("--target") + 1]
            dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
            assert re.search(rf"^FROM .* AS {target}$", dockerfile, re.MULTILINE)
        if words[:2] == ["docker", "compose"]:
            files = [word for before, word in itertools.pairwise(words) if before == "-f"]
            assert all((ROOT / file).is_file() for file in files)


def test_the_form_for_bugs_asks_for_what_doctor_prints():
    fields = {field["id"]: field for field in loaded(GITHUB / "ISSUE_TEMPLATE/bug.yml")["body"]}
    assert fields["doctor"]["attributes"]["label"] == "streamdiffvsr doctor --json"
    assert fields["doctor"]["validations"]["required"]
