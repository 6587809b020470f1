"""A real ComfyUI on a CPU, with this repository as its only custom node, and prompts sent to it.

Everything it reads and writes is in one folder, except its own checkout. Knows ComfyUI's HTTP and
websocket messages, and nothing of what the nodes do.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[3]
PACK = "Stream-DiffVSR-TRT"
START_S, PROMPT_S = 180.0, 1200.0
FOLDERS = ("custom_nodes", "input", "output", "temp", "models/StreamDiffVSR", "user")
ENDINGS = ("execution_success", "execution_error", "execution_interrupted")
PREVIEWS = (1, 4)  # binary messages that are pictures
FEATURES = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}

Prompt = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Event:
    """A message of the server: its type, its data, and when it came (`time.perf_counter`)."""

    kind: str
    data: dict[str, Any]
    at: float


@dataclass(slots=True)
class Ran:
    """The outcome of a prompt.

    Attributes:
        ending: One of `ENDINGS`, or "refused".
        events: In order; previews are of kind "preview".
        outputs: By node, as in ComfyUI's history.
    """

    ending: str
    events: list[Event] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    refusal: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """The data of the last message."""
        return self.events[-1].data

    def of(self, kind: str, node: str | None = None) -> list[Event]:
        """The messages of a kind, and of a node if one is given."""
        return [e for e in self.events if e.kind == kind and node in (None, e.data.get("node"))]

    @property
    def cached(self) -> set[str]:
        """The nodes that were not run again."""
        return {node for event in self.of("execution_cached") for node in event.data["nodes"]}

    def seconds(self, node: str) -> float:
        """From the start of a node to the start of the next."""
        starts = self.of("executing")
        index = next(i for i, e in enumerate(starts) if e.data.get("node") == node)
        return starts[index + 1].at - starts[index].at


@dataclass(slots=True)
class ComfyServer:
    """A server that answers.

    Attributes:
        process: Of ComfyUI.
        folder: Its base folder.
        log: What it prints.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path
    address: str
    session: aiohttp.ClientSession
    client: str = field(default_factory=lambda: uuid.uuid4().hex)

    async def get(self, path: str) -> Any:
        """The JSON at a path."""
        async with self.session.get(f"http://{self.address}{path}") as answer:
            return await answer.json()

    async def post(self, path: str, data: dict[str, Any]) -> Any:
        """Post JSON; the answer's JSON, or None if it has none."""
        async with self.session.post(f"http://{self.address}{path}", json=data) as answer:
            text = await answer.text()
            return json.loads(text) if text else None

    async def run(self, prompt: Prompt, follow: Callable[[Event], Any] = lambda _: None) -> Ran:
        """Queue a prompt and wait for its end.

        Args:
            follow: Sees every message as it comes; what it returns is awaited, if it can be.
        """
        url = f"ws://{self.address}/ws?clientId={self.client}"
        async with self.session.ws_connect(url, max_msg_size=0) as socket_:
            await socket_.send_json(FEATURES)
            answer = await self.post("/prompt", {"prompt": prompt, "client_id": self.client})
            if "prompt_id" not in answer:
                return Ran("refused", refusal=answer)
            ran = Ran("")
            await asyncio.wait_for(_follow(ran, socket_, answer["prompt_id"], follow), PROMPT_S)
            ran.outputs = (await self._history(answer["prompt_id"])).get("outputs", {})
            return ran

    async def _history(self, prompt: str) -> dict[str, Any]:
        """Returns the history of an ended prompt, which is written just after its last message."""
        for _ in range(100):
            history = await self.get(f"/history/{prompt}")
            if prompt in history:
                return dict(history[prompt])
            await asyncio.sleep(0.1)
        return {}


async def _follow(
    ran: Ran, messages: aiohttp.ClientWebSocketResponse, prompt: str, follow: Callable[[Event], Any]
) -> None:
    async for message in messages:
        event = _event(message, prompt)
        if event is None:
            continue
        ran.events.append(event)
        if asyncio.iscoroutine(waited := follow(event)):
            await waited
        if event.kind in ENDINGS:
            ran.ending = event.kind
            return


def _event(message: aiohttp.WSMessage, prompt: str) -> Event | None:
    now = time.perf_counter()
    if message.type is aiohttp.WSMsgType.BINARY:
        is_preview = int.from_bytes(message.data[:4], "big") in PREVIEWS
        return Event("preview", {"bytes": len(message.data)}, now) if is_preview else None
    if message.type is not aiohttp.WSMsgType.TEXT:
        return None
    told = json.loads(message.data)
    data = told.get("data") or {}
    mine = data.get("prompt_id") in (None, prompt)
    return Event(told["type"], data, now) if mine and told["type"] != "status" else None


@asynccontextmanager
async def comfy_server(comfy: Path, python: str, folder: Path) -> AsyncIterator[ComfyServer]:
    """Start ComfyUI and stop it at the end.

    Args:
        comfy: A checkout of ComfyUI.
        python: An interpreter with its requirements and those of this repository.
        folder: New; for everything it reads and writes.

    Raises:
        RuntimeError: It did not start.
    """
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    os.symlink(ROOT, folder / "custom_nodes" / PACK, target_is_directory=True)
    log, port = folder / "comfyui.log", _free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            _command(comfy, python, folder, port),
            cwd=comfy,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )
    try:
        async with aiohttp.ClientSession() as session:
            server = ComfyServer(process, folder, log, f"127.0.0.1:{port}", session)
            await _answering(server)
            yield server
    finally:
        process.terminate()
        process.wait(60)


def _command(comfy: Path, python: str, folder: Path, port: int) -> list[str]:
    options = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
    options += ["--disable-api-nodes", "--base-directory", str(folder)]
    options += ["--database-url", "sqlite:///:memory:"]
    return [python, str(comfy / "main.py"), *options]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answering(server: ComfyServer) -> None:
    deadline = time.monotonic() + START_S
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            await server.get("/system_stats")
            return
        except aiohttp.ClientError:
            await asyncio.sleep(0.5)
    last = server.log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"ComfyUI did not start:\n{last}")
