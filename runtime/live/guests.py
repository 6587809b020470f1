"""What a camera may be that is added through the API, where the file's owner has not typed it.

Whoever has the token may point the service at cameras of the network and send the result on, but
not at this machine: its files, devices and own addresses are for the configuration file, unless
that allows them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from ...errors import UsageError
from .camera import CameraPlan
from .own_addresses import leads_here
from .sink_targets import parse_target

FILES, DEVICES, LOCAL, LISTEN, OPTIONS = "files", "devices", "local", "listen", "options"
ALLOWED = {
    FILES: "sources that are files, and outputs to files and folders",
    DEVICES: "cameras and screens of this machine, and outputs to devices",
    LOCAL: "addresses of this machine and its link",
    LISTEN: "sources and outputs that wait for a connection here",
    OPTIONS: "options of libav",
}
_RECORDING = "an output that is a file or folder"
_PLAIN = re.compile(r"[a-z][a-z0-9+.-]+://|testsrc(=|$)|webcam:|screen(:|$)|/dev/video\d+$")
_ADDRESS = re.compile(r"(?!v4l2:)[A-Za-z][A-Za-z0-9+.-]*://")
_PREFIX = re.compile(r"([a-z][a-z0-9]+):")
_OWN = {"file": FILES, "webcam": DEVICES, "screen": DEVICES}


def check_guest(plan: CameraPlan, allowed: Collection[str]) -> None:
    """Raises `UsageError` if a camera needs what the configuration file has to allow first.

    It may ask the network what a name stands for.
    """
    for need, what in _needs(plan):
        if need not in allowed:
            raise UsageError(
                f"the API may not add a camera with {what}",
                f'it would need "{need}": {ALLOWED[need]}',
                f'name it in the configuration file, or write allow = ["{need}"] there',
            )


def _needs(plan: CameraPlan) -> Iterator[tuple[str, str]]:
    """Yields what a camera needs, and what for; asks for no file by itself.

    So an answer says nothing about which files there are.
    """
    if not _PLAIN.match(plan.source):
        yield FILES, "a source that is a file"
    for text in plan.to:
        if not _ADDRESS.match(text) and text != "null":
            kind = _PREFIX.match(text)
            yield (DEVICES, f"an output of the kind {kind[1]}") if kind else (FILES, _RECORDING)
    address = plan.address()
    if address.kind in _OWN:
        yield _OWN[address.kind], f"a source that is a {address.kind}"
    if address.listens:
        yield LISTEN, "a source that waits for a sender"
    elif address.kind not in (*_OWN, "test") and leads_here(_host(plan.source)):
        yield LOCAL, "a source on this machine"
    if plan.options:
        yield OPTIONS, "options"
    for text in plan.to:
        target = parse_target(text, overwrite=True)
        if target.listens:
            yield LISTEN, "an output that waits for a receiver"
        elif target.traits.remote and leads_here(_host(text)):
            yield LOCAL, "an output on this machine"


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
