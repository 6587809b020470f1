"""The command line as such: help, usage, one line a failure, exit codes, the JSON contract."""

import dataclasses
import errno
import json
import subprocess
import sys

import pytest

from streamdiffvsr.building.request import BuildRequest
from streamdiffvsr.cli import console
from streamdiffvsr.cli.console import DEBUG, run
from streamdiffvsr.cli.options import BUILD_OPTIONS
from streamdiffvsr.errors import StreamDiffVSRError, UsageError


@pytest.fixture
def no_built_in(monkeypatch, tmp_path):
    monkeypatch.setattr("streamdiffvsr.export.model_source.BUILT_IN_FOLDER", tmp_path / "not-there")


def test_help_is_what_no_arguments_give(cli):
    assert cli().out == cli("--help").out
    for name in ("engines", "upscale", "doctor", "demo"):
        assert name in cli().out
        assert cli(name, "--help").code == 0


def test_version(cli):
    assert cli("--version").out == "streamdiffvsr 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "No such command 'nonsense'; see streamdiffvsr --help"),
        (["upscale"], "INPUT and OUTPUT are missing; see streamdiffvsr upscale --help"),
        (["upscale", "a.mp4"], "OUTPUT is missing; see streamdiffvsr upscale --help"),
        (["upscale", "a.mp4", "b.mp4", "--sead", "1"], "--sead"),
        (["upscale", "a.mp4", "b.mp4", "--seed", "-1"], "'--seed'"),
        (["upscale", "a.mp4", "b.mp4", "--seed", "9223372036854775808"], "'--seed'"),
        (["upscale", "a.mp4", "b.mp4", "--max-frames", "0"], "'--max-frames'"),
        (["upscale", "a.mp4", "b.mp4", "--engines", "x", "--model", "y"], "--engines cannot be"),
        (["upscale", "a.mp4", "b.mp4", "--engines", "x", "--steps", "2"], "--engines cannot be"),
        (["engines", "--size", "0x0"], "0x0 is not a frame size"),
        (["engines", "--size", "-64x48"], "-64x48 is not a frame size"),
        (["engines", "--size", "99999x99999"], "99999x99999 is too large"),
        (["engines", "--size", "9" * 5000 + "x1"], "is not a size; write WIDTHxHEIGHT"),
        (["engines", "--size", "720p"], "'720p' is not a size; write WIDTHxHEIGHT"),
        (["engines", "--size", "64x48", "--size", "1x"], "'1x' is not a size"),
        (["engines", "--tile", "some"], "--tile 'some' is not a size"),
        (["engines", "--tile", "33x32", "--model", "."], "tiles of 33x32 do not fit"),
        (["engines", "--backend", "nonsense"], "unknown backend 'nonsense'; use one of"),
        (["engines", "--precision", "int4", "--model", "."], "unknown precision 'int4'"),
        (["engines", "--device", "tpu", "--model", "."], "unknown device 'tpu'"),
        (["engines", "--steps", "0", "--model", "."], "0 steps are not possible"),
        (["engines", "--flow-scale", "3", "--model", "."], "flow scale 3 is not known"),
        (["engines", "--model", "no/such/folder"], "no model 'no/such/folder'"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(cli, arguments, told):
    ran = cli(*arguments)
    assert told in ran.error
    assert (ran.code, ran.out) == (2, "")
    with_json = cli(*arguments, "--json")
    assert with_json.json == {"error": ran.error, "exit_code": 2}
    assert with_json.error == ran.error


def test_a_backend_that_is_not_installed_names_its_extra(cli, monkeypatch):
    for module in ("engines.registry", "engines.host"):
        monkeypatch.setattr(f"streamdiffvsr.{module}.find_spec", lambda name: None)
    ran = cli("engines", "--model", ".", "--backend", "onnxruntime")
    assert "backend onnxruntime is not installed" in ran.error
    assert "pip install 'streamdiffvsr[cpu]'" in ran.error
    assert ran.code == 1


def test_without_the_built_in_model_it_says_what_to_do(cli, no_built_in):
    ran = cli("engines", "--size", "64x48")
    assert ran.code == 1 and "install from a complete checkout" in ran.error
    assert ran.code == 1


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (StreamDiffVSRError("no", "why", "do"), 1, "no: why; do"),
        (UsageError("no"), 2, "no"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (console._Terminated(), 143, "stopped by a signal"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full"),
        (MemoryError("8 GiB"), 1, "not enough memory: 8 GiB"),
        (ValueError("two\nlines"), 1, f"unexpected ValueError: two lines; {DEBUG}=1"),
    ],
)
def test_any_failure_is_one_line(capfd, error, code, told):
    def fails():
        raise error

    for as_json in (False, True):
        assert run(fails, as_json=as_json) == code
        out, err = capfd.readouterr()
        assert err.startswith(f"error: {told}") and err.count("\n") == 1
        assert "Traceback" not in err
        if as_json:
            assert json.loads(out) == {"error": err[len("error: ") : -1], "exit_code": code}


def test_the_traceback_can_be_had(capfd, monkeypatch):
    monkeypatch.setenv(DEBUG, "1")
    assert run(lambda: 1 / 0, as_json=False) == 1  # type: ignore[arg-type,return-value]
    assert "Traceback" in capfd.readouterr().err


def test_a_closed_pipe_is_not_an_error():
    command = [sys.executable, "-m", "streamdiffvsr.cli", "doctor"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()


def test_the_console_script_is_there():
    done = subprocess.run(
        [sys.executable, "-m", "streamdiffvsr.cli", "engines", "--size", "0x0", "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2
    assert done.stderr.startswith("error: 0x0 is not a frame size")
    assert done.stderr.count("\n") == 1


def test_every_option_of_a_build_is_a_field_and_has_a_line_in_the_command_line():
    fields = {field.name for field in dataclasses.fields(BuildRequest)}
    assert fields - set(BUILD_OPTIONS) == {"correlation", "batch"}
    assert set(BUILD_OPTIONS) < fields


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("upscale", "INPUT... OUTPUT"),
        ("live", "SOURCE"),
        ("bench live", "[SOURCE]"),
        ("bench compare", "A.json B.json"),
        ("engines debug", "GRAPH"),
    ],
)
def test_the_usage_brackets_only_what_may_be_left_out(cli, command, usage):
    shown = cli(*command.split(), "--help").out
    assert f"Usage: streamdiffvsr {command} [OPTIONS] {usage} " in shown


@pytest.mark.parametrize("command", ["upscale", "live", "bench", "engines"])
def test_every_command_offers_every_option_of_a_build(cli, command):
    shown = cli(command, "--help").out
    for name in BUILD_OPTIONS:
        option = "workspace" if name == "workspace_mib" else name.replace("_", "-")
        assert f"--{option} " in shown, f"{command} has no --{option}"
    assert "--build" not in shown


@pytest.mark.parametrize("command", ["debug", "operators"])
def test_a_command_that_keeps_no_engines_offers_what_it_can_use(cli, command):
    shown = cli("engines", command, "--help").out
    assert "--color-match " in shown and "--revision " in shown and "--workspace" not in shown
    assert ("--backend " in shown) == (command == "debug")
