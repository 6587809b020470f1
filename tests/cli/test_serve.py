"""`streamdiffvsr serve`: many cameras as an operator has them, and what disturbs which of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from streamdiffvsr.cli.live_preview import TOKEN
from streamdiffvsr.cli.live_status import cameras_in_one_line
from streamdiffvsr.tests.conftest import Cli
from streamdiffvsr.tests.live.preview.rig import free_port, get, wait_until
from streamdiffvsr.tests.live.rtsp import RtspServer, needs_rtsp_server
from streamdiffvsr.tests.live.sounding import beeping

pytest.importorskip("aiohttp", reason="serve needs the extra live")
av = pytest.importorskip("av")
CANARY = "Zx9canary"


@dataclass
class Serving:
    """A `serve` that runs, its page's port, and the lines that it has printed."""

    process: subprocess.Popen[str]
    port: int
    lines: list[str] = field(default_factory=list)

    def said(self) -> list[str]:
        events = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [event["text"] for event in events if event.get("event") == "message"]

    def ask(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {CANARY}-token", "Content-Type": "application/json"}
        code, answer, _ = get(self.port, path, headers, method, body)
        return code, answer

    def cameras(self) -> dict[str, dict[str, Any]]:
        with contextlib.suppress(OSError):
            code, body = self.ask("/api/cameras")
            if code == 200:
                return {one["name"]: one for one in json.loads(body)["cameras"]}
        return {}

    def play(self, *names: str, deadline_s: float = 60) -> None:
        """Waits until these cameras play."""

        def all_play() -> bool:
            assert self.process.poll() is None, self.lines
            found = self.cameras()
            return all(found.get(name, {}).get("state") == "playing" for name in names)

        wait_until(all_play, deadline_s, f"they do not play: {self.said()}")

    def frames(self, name: str) -> int:
        return int(self.cameras()[name]["frames"] or 0)

    def rate(self, name: str, seconds: float) -> float:
        """Returns the output frames a second of a camera, over that time."""
        before, began = self.frames(name), time.monotonic()
        time.sleep(seconds)
        return (self.frames(name) - before) / (time.monotonic() - began)

    def children(self, camera: str) -> list[psutil.Process]:
        """The processes that write the outputs of this camera, found by the files they hold."""
        return [
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if any(camera in file.path for file in child.open_files())
        ]


@contextmanager
def serving(
    folder: Path, cameras: str, *, token: str = f"{CANARY}-token", **variables: str
) -> Iterator[Serving]:
    """The command in a process of its own, in a folder of its own."""
    port = free_port()
    head = f'[server]\nlisten = "127.0.0.1:{port}"\n[defaults]\nmode = "adaptive"\n'
    (folder / "cameras.toml").write_text(head + cameras, encoding="utf-8")
    command = [sys.executable, "-m", "streamdiffvsr.cli", "serve", "cameras.toml", "--json"]
    environment = {**os.environ, TOKEN: token, **variables}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment,
    )
    found = Serving(process, port)

    def read() -> None:
        assert process.stdout is not None
        found.lines.extend(process.stdout)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield found
    finally:
        process.kill()
        process.wait()
        reader.join(10)


def rewrite(folder: Path, old: str, new: str) -> None:
    """Changes the file as an editor does."""
    file = folder / "cameras.toml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    (folder / "new").write_text(text.replace(old, new), encoding="utf-8")
    (folder / "new").replace(file)


# ---- checking ----


def test_check_says_that_a_file_is_right(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "cameras.toml"
    file.write_text('[camera.a]\nsource = "testsrc"\n[camera.b]\nsource = "testsrc"\n')
    ran = cli("serve", file, "--check")
    assert ran.code == 0 and "2 camera(s): a, b" in ran.out
    assert cli("serve", file, "--check", "--json").json == {"cameras": ["a", "b"]}


def test_check_has_a_line_for_each_fault(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "cameras.toml"
    file.write_text(f'[camera.a]\nsource = "gopher://u:{CANARY}@x"\nmode = 1\n[camera.b]\nx = 1\n')
    ran = cli("serve", file, "--check")
    assert ran.code == 2 and CANARY not in ran.err + ran.out
    lines = ran.err.splitlines()
    assert len(lines) == 4 and lines[-1] == f"error: 3 fault(s) in {str(file)!r}"
    assert all(line.startswith("cameras.toml: camera ") for line in lines[:-1])
    started = cli("serve", file)
    assert started.code == 2 and "(and 2 more)" in started.error


def test_a_line_for_a_terminal_says_how_many_play() -> None:
    playing = {"name": "a", "state": "playing", "fps_out": 8.0}
    other = {"name": "b", "state": "failed", "fps_out": None}
    line = cameras_in_one_line([playing, other])
    assert line == "1 of 2 cameras play, 8.0 fps, b failed"
    assert len(cameras_in_one_line([playing, other], 20)) == 20


# ---- running ----


@pytest.mark.slow
@needs_rtsp_server
def test_a_server_or_child_that_dies_disturbs_no_other_camera(tmp_path: Path) -> None:
    with ExitStack() as held:
        servers = [held.enter_context(RtspServer(size="160x90", fps=8)) for _ in range(3)]
        tables = [
            f'[camera.c{n}]\nsource = "{server.url}"\nto = "c{n}.mkv"\n'
            for n, server in enumerate(servers)
        ]
        running = held.enter_context(serving(tmp_path, "".join(tables)))
        running.play("c0", "c1", "c2")
        others = ("c0", "c2")

        servers[1].kill()
        wait_until(lambda: running.cameras()["c1"]["state"] != "playing", 30)
        before = {name: running.cameras()[name] for name in others}
        rates = [running.rate(name, 4) for name in others]
        assert min(rates) > 0.7 * 8, rates
        servers[1].start()
        running.play("c1")

        for number in range(2):  # the encoder, and what decodes
            of_one = running.children("c1")
            assert of_one, "its encoder holds its file"
            victim = of_one[0] if number == 0 else captures(running, servers[1])[0]
            victim.kill()
            rates = [running.rate(name, 4) for name in others]
            assert min(rates) > 0.7 * 8, rates
            running.play("c1")
            at = running.frames("c1")
            wait_until(lambda at=at: running.frames("c1") > at + 8, 30)
        after = running.cameras()
        for name in others:
            assert after[name]["restarts"] == 0
            assert after[name]["dropped"] - before[name]["dropped"] < 30
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
        assert len(list(tmp_path.glob("c1*.mkv"))) >= 2
        for name in others:
            with av.open(str(tmp_path / f"{name}.mkv")) as container:
                assert sum(1 for _ in container.decode(video=0)) > 60


def captures(running: Serving, server: RtspServer) -> list[psutil.Process]:
    """The processes that are connected to a server."""
    return [
        child
        for child in psutil.Process(running.process.pid).children(recursive=True)
        if any(one.raddr and one.raddr.port == server.port for one in child.net_connections("tcp"))
    ]


@pytest.mark.slow
def test_a_changed_file_is_followed_and_a_faulty_one_is_not(tmp_path: Path) -> None:
    cameras = "".join(f'[camera.{n}]\nsource = "testsrc=96x64@8"\n' for n in ("same", "gone"))
    with serving(tmp_path, cameras) as running:
        running.play("same", "gone")
        process = psutil.Process(running.process.pid)
        rewrite(tmp_path, "[camera.gone]", "[camera.new]")
        running.play("same", "new")
        assert list(running.cameras()) == ["same", "new"]
        assert "cameras.toml: added new; removed gone" in running.said()

        rewrite(tmp_path, "testsrc=96x64@8", "testsrc=0x0")
        wait_until(lambda: any("goes on" in line for line in running.said()))
        (line,) = [line for line in running.said() if "goes on" in line]
        assert line.startswith("cameras.toml: camera ") and "key source" in line
        assert json.loads(running.ask("/api/cameras")[1])["file_faulty"]
        code, body = running.ask("/api/reload", "POST", b"{}")
        assert code == 400 and "key source" in json.loads(body)["error"]
        running.play("same", "new")

        before = running.frames("same")
        rewrite(tmp_path, "testsrc=0x0", "testsrc=96x64@8")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "cameras.toml: nothing changed" in running.said())
        assert running.frames("same") >= before
        assert running.cameras()["same"]["restarts"] == 0
        assert process.is_running()


@pytest.mark.slow
def test_no_output_status_metric_or_child_has_a_secret(tmp_path: Path) -> None:
    port = free_port()
    cameras = (
        f'[camera.a]\nsource = "rtsp://admin:${{PASSWORD}}@127.0.0.1:{port}/live"\n'
        f'to = "rtsp://admin:${{PASSWORD}}@127.0.0.1:{port}/out"\n'
        '[camera.b]\nsource = "testsrc=96x64@8"\n'
        f'to = "rtsp://admin:${{PASSWORD}}@127.0.0.1:{port}/out2"\n'
    )
    with serving(tmp_path, cameras, PASSWORD=CANARY) as running:
        running.play("b")
        wait_until(lambda: running.cameras()["a"]["why"])
        wait_until(lambda: running.cameras()["b"]["sinks"][0]["error"])
        for path in ("/api/cameras", "/api/cameras/a", "/metrics", "/healthz", "/openapi.json"):
            assert CANARY not in running.ask(path)[1].decode(), path
        for page in ("", "status.json", "metrics", "healthz"):
            assert CANARY not in running.ask(f"/cameras/a/{page}")[1].decode(), page
        for child in psutil.Process(running.process.pid).children(recursive=True):
            assert CANARY not in " ".join([*child.cmdline(), *child.environ().values()])
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
    assert CANARY not in "".join(running.lines)
    assert any("(the token is in" in line for line in running.said())


@pytest.mark.slow
def test_without_a_token_one_is_made_and_printed(tmp_path: Path) -> None:
    with serving(tmp_path, '[camera.a]\nsource = "testsrc=96x64@8"\n', token="") as running:
        (line,) = wait_until(lambda: [one for one in running.said() if one.startswith("page: ")])
        address, _, token = line.partition("?token=")
        assert len(token) >= 24 and address == f"page: http://127.0.0.1:{running.port}/"
        wait_until(lambda: get(running.port, f"/?token={token}")[0] == 200)
        assert get(running.port, "/")[0] == 401
        assert get(running.port, "/api/cameras")[0] == 401


@pytest.mark.slow
def test_an_engine_that_never_returns_ends_it_with_1(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamdiffvsr.cli import serve
    from streamdiffvsr.runtime.live import engine_thread
    from streamdiffvsr.tests.live.stand_ins import PassThrough, ladder

    class Hanging(PassThrough):
        def step(self, image: Any) -> Any:
            if len(self.guided) == 5:
                threading.Event().wait()
            return super().step(image)

    limits = engine_thread.HangLimits(least_s=0.3, unknown_s=5.0, give_up=3.0)
    thread = engine_thread.EngineThread
    monkeypatch.setattr(engine_thread, "EngineThread", lambda: thread(limits))
    monkeypatch.setattr(serve, "leave_at_once", lambda: None)
    monkeypatch.setattr(
        serve, "opener", lambda *_: lambda size, at: ladder(full=Hanging(size=size))
    )
    file, out = tmp_path / "cameras.toml", tmp_path / "a.mkv"
    cameras = f'[camera.a]\nsource = "testsrc=64x48@10"\nto = "{out}"\n'
    cameras += '[camera.b]\nsource = "testsrc=64x48@10"\n'
    head = f'[server]\nlisten = "127.0.0.1:{free_port()}"\n[defaults]\nmode = "exact"\n'
    file.write_text(head + cameras, encoding="utf-8")
    ran = cli("serve", file, "--json", "--max-seconds", 60)
    assert ran.code == 1
    assert json.loads(ran.out.splitlines()[-1])["error"].startswith("an engine has been stuck")
    told = [json.loads(line) for line in ran.out.splitlines()]
    lines = [event["text"] for event in told if event.get("event") == "message"]
    assert any(line.startswith("a: engine stuck") for line in lines)
    assert any(line.startswith("b: engine stuck") for line in lines), "they share it"
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) > 5


@pytest.mark.slow
def test_a_camera_has_its_sound_unless_it_is_to_have_none(tmp_path: Path) -> None:
    (tmp_path / "film.mkv").write_bytes(beeping(6, "matroska"))
    cameras = "".join(
        f'[camera.{name}]\nsource = "film.mkv"\nto = "{name}-out.mkv"\naudio = {audio}\n'
        for name, audio in (("loud", "true"), ("quiet", "false"))
    )
    with serving(tmp_path, cameras) as running:
        wait_until(lambda: {c.get("state") for c in running.cameras().values()} == {"ended"})
    sounds = {}
    for name in ("loud", "quiet"):
        with av.open(str(tmp_path / f"{name}-out.mkv")) as container:
            sounds[name] = len(container.streams.audio)
    assert sounds == {"loud": 1, "quiet": 0}


@pytest.mark.slow
def test_a_stop_finishes_every_file_within_five_seconds(tmp_path: Path) -> None:
    port = free_port()
    cameras = "".join(
        f'[camera.c{n}]\nsource = "testsrc=96x64@8"\nto = "c{n}.mkv"\n' for n in range(2)
    )
    cameras += f'[camera.away]\nsource = "rtsp://127.0.0.1:{port}/x"\n'
    with serving(tmp_path, cameras) as running:
        running.play("c0", "c1")
        wait_until(lambda: min(running.frames("c0"), running.frames("c1")) > 20)
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
        assert time.monotonic() - began < 6
    last = json.loads(running.lines[-1])
    assert last["reason"] == "stopped"
    assert {one["state"] for one in last["cameras"]} == {"ended"}
    assert [one["frames"] > 20 for one in last["cameras"][:2]] == [True, True]
    for n in range(2):
        with av.open(str(tmp_path / f"c{n}.mkv")) as container:
            assert sum(1 for _ in container.decode(video=0)) > 10
