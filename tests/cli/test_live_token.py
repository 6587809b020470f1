"""Where the preview's token comes from, and that it is shown only if it was typed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from streamdiffvsr.cli.live_preview import TOKEN, open_preview, preview_at, read_token
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.tests.conftest import Cli

CANARY = "Zx9canary"


def opened(token: str | None = None, file: Path | None = None, place: str = "127.0.0.1:0") -> str:
    """Returns what is told when a preview is opened."""
    pytest.importorskip("aiohttp", reason="the preview needs the extra live")
    told: list[str] = []
    at = preview_at(place, token, file, needed=False)
    assert at is not None
    page = open_preview(at, token, file, dict, told.append, None)
    page.close(2.0)
    return "\n".join(told)


def secret_file(folder: Path, content: bytes = CANARY.encode() + b"\n") -> Path:
    path = folder / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_a_typed_token_is_in_the_address_to_open() -> None:
    assert f"?token={CANARY}" in opened(token=CANARY)


def test_a_token_of_the_environment_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, CANARY)
    told = opened(place="0.0.0.0:0")
    assert CANARY not in told
    assert f"/?token=... (the token is in {TOKEN})" in told


def test_a_token_of_a_file_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "another")
    told = opened(file=secret_file(tmp_path), place="0.0.0.0:0")
    assert CANARY not in told and "another" not in told
    assert "the token is in" in told and "\n" not in told


@pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
def test_a_file_that_everyone_can_read_is_warned_of(tmp_path: Path) -> None:
    path = secret_file(tmp_path)
    told: list[str] = []
    assert read_token(path, told.append) == CANARY
    assert told == []
    path.chmod(0o644)
    assert read_token(path, told.append) == CANARY
    assert len(told) == 1 and "chmod 600" in told[0] and CANARY not in told[0]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"one\ntwo\n", "more than one short line"),
        (b"x" * 2000, "more than one short line"),
        (b"\xff\xfe", "it is no text"),
        (b"a\x00b", "more than one short line"),
    ],
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(StreamDiffVSRError, match=why):
        read_token(secret_file(tmp_path, content), lambda line: None)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such pipe")
@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_readable_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "token"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    why = "No such file" if kind == "missing" else "no ordinary file"
    with pytest.raises(StreamDiffVSRError, match=why):
        read_token(path, lambda line: None)


def test_two_tokens_are_refused(cli: Cli, tmp_path: Path) -> None:
    path = secret_file(tmp_path)
    ran = cli("live", "testsrc", "--preview", ":0", "--token", "typed", "--token-file", path)
    assert ran.code == 2
    assert "--token and --token-file are both given" in ran.error


def test_the_remedy_makes_the_file_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    path = tmp_path / "a folder" / "none"
    with pytest.raises(StreamDiffVSRError) as caught:
        read_token(path, lambda line: None)
    command = caught.value.remedy.removeprefix("make one with ")
    assert command == f"(umask 077; openssl rand -hex 24 > '{path}')"


def test_without_a_token_a_file_is_advised_first(cli: Cli) -> None:
    ran = cli("live", "testsrc", "--preview", "0.0.0.0:0", "--to", "null")
    assert ran.code == 2
    assert "give one with --token-file, STREAMDIFFVSR_TOKEN or --token, or listen" in ran.error


@pytest.mark.parametrize("kind", ["--token", "--token-file"])
def test_a_token_without_a_page_is_refused(cli: Cli, tmp_path: Path, kind: str) -> None:
    value = CANARY if kind == "--token" else secret_file(tmp_path)
    ran = cli("live", "testsrc", "--to", "null", kind, value, "--max-seconds", 20)
    assert ran.code == 2 and len(ran.err.splitlines()) == 1
    assert f"{kind} has no effect" in ran.err and "add --preview" in ran.err
    assert CANARY not in ran.err


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("8081", "write it like localhost:8081 or :8081"),
        ("localhost", "write it like localhost:8081 or :8081"),
        ("10.0.0.1", "write it like localhost:8081 or :8081"),
        ("localhost:", "write it like localhost:8081 or :8081"),
        ("localhost:http", "write it like localhost:8081 or :8081"),
        ("localhost:99999", "ports are numbers from 0 to 65535"),
    ],
)
def test_what_is_no_host_and_port_is_one_line(cli: Cli, place: str, why: str) -> None:
    ran = cli("live", "testsrc", "--preview", place, "--to", "null", "--max-seconds", 20)
    assert ran.code == 2 and len(ran.err.splitlines()) == 1
    assert f"--preview '{place}'" in ran.err and why in ran.err
