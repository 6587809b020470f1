"""The schema is kept to, and a file that is no result is refused in one line."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from streamdiffvsr.benchmarks.report.files import read_result, result_schema, violation
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.tests.benchmarks.report.sample import live_sample, sample

SAMPLES = {"cpu": sample(), "gpu": sample(gpu=True), "live": live_sample()}


def changed(place: str, value: Any) -> dict[str, Any]:
    """The sample with another value at a place such as `subjects.0.input`."""
    result = deepcopy(SAMPLES["cpu"])
    *path, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    at: Any = result
    for key in path:
        at = at[key]
    at[last] = value
    return result


WRONG = [
    (changed("subjects.0.input", 160), "subjects[0].input is not string"),
    (
        changed("subjects.0.modes.plain.frame_ms.p99", None),
        "subjects[0].modes.plain.frame_ms.p99 is not number",
    ),
    (
        changed("subjects.0.modes.plain.rounds_p50.1", "12 ms"),
        "subjects[0].modes.plain.rounds_p50[1] is not number",
    ),
    (
        changed("subjects.0.roofline.rates.gflops", 0),
        "subjects[0].roofline.rates.gflops is out of range: 0",
    ),
    (changed("subjects.0.steps", True), "subjects[0].steps is not integer"),
    (
        changed("subjects.0.roofline.graphs.flow.bound", "disk"),
        "subjects[0].roofline.graphs.flow.bound is none of ['compute', 'memory', None]",
    ),
    (changed("comparisons.0.spread", [1.0]), "comparisons[0].spread has 1 items"),
    (changed("noise.why", "busy"), "noise.why is not array"),
    (changed("machine.cores", 0), "machine.cores is out of range: 0"),
    (changed("subjects.0.media", []), "subjects[0].media is not object"),
    (changed("subjects.0.input", "big"), "subjects[0].input is not valid: 'big' does not match"),
]


@pytest.fixture
def validator() -> Any:
    """The schema to the letter: it refuses fields that it does not know."""
    jsonschema = pytest.importorskip("jsonschema", reason="of the extra bench")
    return jsonschema.Draft202012Validator(result_schema())


def test_the_schema_is_one(validator: Any) -> None:
    validator.check_schema(result_schema())


@pytest.mark.parametrize("name", SAMPLES)
def test_a_result_conforms_to_the_letter_and_to_the_reader(validator: Any, name: str) -> None:
    assert [error.message for error in validator.iter_errors(SAMPLES[name])] == []
    assert violation(SAMPLES[name], result_schema()) is None


@pytest.mark.parametrize(("result", "fault"), WRONG)
def test_what_does_not_conform_is_found_and_its_place_named(
    validator: Any, result: dict[str, Any], fault: str
) -> None:
    assert not validator.is_valid(result)
    assert (violation(result, result_schema()) or "").startswith(fault)


def test_a_field_that_is_not_known_is_for_the_schema_alone_to_refuse(validator: Any) -> None:
    result = changed("machine.colour", "beige")
    assert not validator.is_valid(result)
    assert violation(result, result_schema()) is None


def test_every_field_is_described(validator: Any) -> None:
    def bare(part: Any, where: str) -> list[str]:
        found = []
        for name, field in part.get("properties", {}).items():
            told = {"description", "$ref", "anyOf", "const", "enum"} & set(field)
            found += [] if told else [f"{where}.{name}"]
            found += bare(field, f"{where}.{name}")
        return found

    schema = result_schema()
    assert bare(schema, "") == []
    assert [name for key, part in schema["$defs"].items() for name in bare(part, key)] == []


def test_optional_parts_may_be_missing(tmp_path: Path) -> None:
    result = deepcopy(SAMPLES["cpu"])
    for name in ("command", "stopped", "settings", "noise", "comparisons", "baselines", "live"):
        del result[name]
    for name in (
        "start_up",
        "memory_mb",
        "stages",
        "media",
        "file_rate",
        "timeline",
        "roofline",
        "tile",
    ):
        del result["subjects"][0][name]
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    assert read_result(path) == result


def told(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(StreamDiffVSRError) as caught:
        read_result(path)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return line


@pytest.mark.parametrize("other", ["streamdiffvsr.bench/2", "somebody.else/1", 7, ["x"]])
def test_another_schema_is_named_with_the_one_expected(tmp_path: Path, other: Any) -> None:
    line = told(tmp_path, json.dumps({"schema": other}).encode())
    assert "expected schema 'streamdiffvsr.bench/1'" in line and json.dumps(other) in line


@pytest.mark.parametrize(
    "content", ["{}", "[1, 2]", "null", '"text"', '{"error": "no", "exit": 1}']
)
def test_other_json_is_told_which_schema_was_expected(tmp_path: Path, content: str) -> None:
    line = told(tmp_path, content.encode())
    assert "expected schema 'streamdiffvsr.bench/1', and it names no schema" in line


def test_wherever_it_is_cut_off_it_says_so(tmp_path: Path) -> None:
    whole = json.dumps(SAMPLES["cpu"]).encode()
    for length in [1, 2, 11, 30, *range(200, len(whole), 1733), len(whole) - 1]:
        assert "it is cut off" in told(tmp_path, whole[:length])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"# a markdown file\n", "not JSON"),
        (b'{"schema": "streamdiffvsr.bench/1"} trailing', "not JSON"),
        (b"{'schema': 1, 'a': 'a long line of python, not json'}", "not JSON"),
        (b'{"schema": "streamdiffvsr.bench/1", "n": NaN}', "NaN is not a number"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "not text"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_not_json_is_said_to_be_so(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in told(tmp_path, content)


def test_a_result_that_lacks_a_field_says_which(tmp_path: Path) -> None:
    result = deepcopy(SAMPLES["cpu"])
    del result["subjects"][1]["modes"]["plain"]["frame_ms"]["p95"]
    line = told(tmp_path, json.dumps(result).encode())
    assert "subjects[1].modes.plain.frame_ms has no 'p95'" in line


def test_without_its_validator_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    line = told(tmp_path, json.dumps(SAMPLES["cpu"]).encode())
    assert line.endswith("not installed: jsonschema; run pip install 'streamdiffvsr[bench]'")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StreamDiffVSRError, match="there is no such file; give a file"):
        read_result(tmp_path / "none.json")
    with pytest.raises(StreamDiffVSRError, match="cannot read"):
        read_result(tmp_path)
