"""A report in a tab of a real browser, and what can be asked of its layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from streamdiffvsr.benchmarks.report.html import write_html

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}

# Every line of text that is seen, with its box; then all pairs of boxes that meet.
OVERLAPS = """() => {
    const boxes = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const node = walk.currentNode, parent = node.parentElement;
        if (!node.data.trim() || parent.closest("title, desc")) continue;
        const clipped = [parent, parent.closest("thead") || parent];
        if (clipped.some(part => getComputedStyle(part).clipPath !== "none")) continue;
        const range = document.createRange();
        range.selectNodeContents(node);
        for (const r of range.getClientRects())
            if (r.width > 1 && r.height > 1)
                boxes.push([r.left, r.top + 0.2 * r.height, r.right, r.bottom - 0.2 * r.height,
                            node.data.trim()]);
    }
    const found = [];
    for (let i = 0; i < boxes.length; i++)
        for (let j = 0; j < i; j++) {
            const [a, b] = [boxes[i], boxes[j]];
            const wide = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
            const high = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
            if (wide > 0.5 && high > 0.5) found.push([a[4], b[4]]);
        }
    return [boxes.length, found];
}"""
# Labels of spans that are wider or higher than their span, and texts outside of their drawing.
OUTSIDE = """() => {
    const out = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1
        || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
    const found = [];
    for (const text of document.querySelectorAll("svg text")) {
        if (!text.getClientRects().length) continue;
        const label = text.closest(".inside"), span = label && label.previousElementSibling;
        const around = (span || text.closest("svg")).getBoundingClientRect();
        if (label && !span.matches(".span")) throw Error("a label without its span");
        if (out(text.getBoundingClientRect(), around)) found.push(text.textContent);
    }
    return found;
}"""
HIDDEN = """() => [...document.querySelectorAll("section, h1, h2, h3, .card, .timed, footer")]
    .filter(part => {
        const box = part.getBoundingClientRect();
        return box.width < 20 || box.height < 12 || box.left < 0 || box.right > innerWidth + 0.5;
    }).map(part => part.outerHTML.slice(0, 80))"""

STYLE = "getComputedStyle(document.documentElement)"


class Report:
    """A report in a tab, what it asked for, and what its console complained of."""

    def __init__(self, browser: Any, result: dict[str, Any], folder: Path, size: str, theme: str):
        write_html(result, folder / "report.html")
        width, height = SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme
        )
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = (folder / "report.html").as_uri()
        self.page.goto(self.url)

    def check(self) -> None:
        """All that must be so of any report."""
        others = [url for url in self.requests if url != self.url and not url.startswith("data:")]
        assert (self.complaints, others) == ([], [])
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert self.page.evaluate(HIDDEN) == []
        assert self.page.evaluate(OUTSIDE) == []
        texts, overlapping = self.page.evaluate(OVERLAPS)
        assert overlapping == []
        assert texts > 20

    def titles(self) -> list[str]:
        """The first words of the cards that are seen."""
        shown = self.page.locator("h3:visible").all_inner_texts()
        return [text.partition(" ")[0] for text in shown]
