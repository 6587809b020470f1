"""The real page in headless Chromium: it reads the examples as we do, runs one, and is drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

from .results import EXAMPLES
from .server import ComfyServer
from .workflow import to_prompt

Told = dict[str, Any]
WAITS = 1200  # of half a second, for an example to end
VIEW: Any = {"width": 1920, "height": 1200}
# Else the page begins with its templates, and its map lies on the graph.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}
READY = "() => window.app && window.app.graph && document.querySelector('canvas')"
LOAD = "async ([graph, name]) => { await window.app.loadGraphData(graph, true, true, name); }"
FIT = """() => {
    const graph = window.app.graph, canvas = window.app.canvas;
    const boxes = graph._nodes.map((n) => n.getBounding());
    const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1]));
    const right = Math.max(...boxes.map((b) => b[0] + b[2]));
    const bottom = Math.max(...boxes.map((b) => b[1] + b[3]));
    const room = canvas.canvas.getBoundingClientRect();
    const scale = Math.min(
        (room.width - 60) / (right - left), (room.height - 60) / (bottom - top), 1.2);
    canvas.ds.scale = scale;
    canvas.ds.offset = [30 / scale - left, 30 / scale - top];
    canvas.setDirty(true, true);
}"""
PROMPT = "async () => (await window.app.graphToPrompt()).output"
QUEUE = "async () => { await window.app.queuePrompt(0); }"


async def page(server: ComfyServer, pictures: Path, chromium: str | None) -> Told:
    """Load every example in the page, compare its prompt with ours, run each, and draw it.

    Args:
        pictures: A folder for `comfyui-NAME.png`.
        chromium: The browser's path; None for playwright's own.
    """
    info = await server.get("/object_info")
    await server.post("/settings", SETTINGS)
    told: Told = {}
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium)
        view = await browser.new_page(viewport=VIEW)
        await view.goto(f"http://{server.address}/")
        await view.wait_for_function(READY, timeout=120_000)
        await view.wait_for_timeout(3000)  # its first workflow comes late, and would replace ours
        errors: list[str] = []  # from here on: it has some of its own while it starts
        view.on("pageerror", lambda error: errors.append(str(error)))
        for path in sorted(EXAMPLES.glob("*.json")):
            graph = json.loads(path.read_text(encoding="utf-8"))
            one = await _one(server, view, graph, path.stem, pictures)
            theirs, ours = _known(one.pop("prompt"), info), to_prompt(graph, info)
            told[path.stem] = {"as_ours": theirs == ours, **one}
        await browser.close()
    ok = all(one["as_ours"] and one["nodes_of_unknown_type"] == 0 for one in told.values())
    return {"ok": ok and not errors, **told, "page_errors": errors}


async def _one(
    server: ComfyServer, view: Page, graph: dict[str, Any], name: str, pictures: Path
) -> Told:
    await view.evaluate(LOAD, [graph, name])
    await view.evaluate(FIT)
    prompt = await view.evaluate(PROMPT)
    before = len(await server.get("/history"))
    await view.evaluate(QUEUE)
    for _ in range(WAITS):
        await view.wait_for_timeout(500)
        if len(await server.get("/history")) > before:
            break
    await view.wait_for_timeout(2000)  # the results' pictures and videos are fetched
    await view.evaluate(FIT)  # nodes grow with what they show
    await view.wait_for_timeout(500)
    await view.screenshot(path=pictures / f"comfyui-{name}.png")
    unknown = await view.evaluate(
        "() => window.app.graph._nodes.filter((n) => n.has_errors).length"
    )
    return {"prompt": prompt, "nodes_of_unknown_type": unknown}


def _known(prompt: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """A prompt of the page without what it keeps for itself, such as widgets of previews."""
    known = {}
    for number, node in prompt.items():
        groups = info[node["class_type"]]["input"]
        names = {name for group in ("required", "optional") for name in groups.get(group, {})}
        inputs = {name: value for name, value in node["inputs"].items() if name in names}
        known[number] = {"class_type": node["class_type"], "inputs": inputs}
    return known
