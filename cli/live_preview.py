"""The preview page of `streamdiffvsr live`: its place, its token, and the token's source."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import StreamDiffVSRError, UsageError, option
from . import options as opt

if TYPE_CHECKING:
    from ..runtime.live.preview.preview import Preview
    from ..runtime.live.preview.regions import Prefer

Tell = Callable[[str], None]
PREVIEW = "127.0.0.1:8080"
TOKEN = "STREAMDIFFVSR_TOKEN"
_LONGEST_TOKEN = 1024  # bytes
_LAST_PORT = 65535

PreviewAt = Annotated[
    str | None,
    typer.Option(
        "--preview",
        metavar="[HOST:PORT]",
        help="Serve a web page that shows the video, at HOST:PORT or :PORT, such as :8081 "
        f"({PREVIEW} if left out)." + opt.default("on if there is no --to"),
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="T",
        help="Token that the preview page requires of its viewers; mandatory if other machines can "
        "reach the page. Other users of this machine can see it in the list of processes; "
        "--token-file and the variable avoid that." + opt.default(f"the value of {TOKEN}, if set"),
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File that holds the token, in one line."),
]


def with_preview_at(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with the default address after a `--preview` that has none.

    The parser cannot make a value optional.
    """
    given: list[str] = []
    for index, argument in enumerate(arguments):
        given.append(argument)
        following = arguments[index + 1] if index + 1 < len(arguments) else "-"
        if argument == "--preview" and not _is_place(following):
            given.append(PREVIEW)
    return given


def preview_at(
    asked: str | None, token: str | None, token_file: Path | None, *, needed: bool
) -> tuple[str, int] | None:
    """Returns the host and port of the page; None if none is asked for.

    Args:
        asked: HOST:PORT or :PORT.
        needed: Whether there is a page even if none is asked for.

    Raises:
        UsageError: It is no such place, or there is a token but no page.
    """
    if asked is None and not needed:
        given = "token" if token else "token_file" if token_file is not None else ""
        if given:
            what = f"{option(given)} has no effect"
            why = "it is for the preview page, and there is none"
            raise UsageError(what, why, f"add {option('preview')}, or leave it out")
        return None
    place = PREVIEW if asked is None else asked
    host, colon, port = place.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        what = f"{option('preview')} {place!r:.60} is not HOST:PORT or :PORT"
        raise UsageError(what, remedy="write it like localhost:8081 or :8081")
    if int(port) > _LAST_PORT:
        what = f"{option('preview')} {place!r:.60} has no such port"
        raise UsageError(what, f"ports are numbers from 0 to {_LAST_PORT}", "choose another one")
    return host.strip("[]") or "127.0.0.1", int(port)


def open_preview(
    place: tuple[str, int],
    token: str | None,
    token_file: Path | None,
    status: Callable[[], dict[str, Any]],
    tell: Tell,
    prefer: Prefer | None,
) -> Preview:
    """Opens the page at a host and port and reports its address.

    The address has the token only if that stands on the command line anyway.

    Raises:
        UsageError: There are two tokens, or none where others can reach the page.
        StreamDiffVSRError: The page cannot be opened, or the file has no token.
    """
    from ..runtime.live.preview.preview import Preview

    if token and token_file is not None:
        what = f"{option('token')} and {option('token_file')} are both given"
        raise UsageError(what, "the page has one token", "leave one out")
    secret, source = token, ""
    if token_file is not None:
        secret, source = read_token(token_file, tell), f"{str(token_file)!r}"
    elif not token and (secret := os.environ.get(TOKEN)):
        source = TOKEN
    host, port = place
    page = Preview(
        host,
        port,
        token=secret or None,
        status=status,
        tell=tell,
        prefer=prefer,
    )
    needs = f"?token=... (the token is in {source})" if source else ""
    tell(f"preview: {page.url.partition('?')[0]}{needs}" if source else f"preview: {page.url}")
    return page


def read_token(path: Path, tell: Tell) -> str:
    """Returns the token in a file; warns if every user of this machine can read it.

    Raises:
        StreamDiffVSRError: It cannot be read, is no file, or does not hold one line of text.
    """
    failure = f"could not read the token in {str(path)!r}"
    remedy = f"make one with (umask 077; openssl rand -hex 24 > {shlex.quote(str(path))})"
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe might never end
            raise StreamDiffVSRError(failure, "it is no ordinary file", remedy)
        with path.open("rb") as file:
            content = file.read(_LONGEST_TOKEN + 1)
        token = content.decode().strip()
    except OSError as error:
        raise StreamDiffVSRError(failure, error.strerror or str(error), remedy) from error
    except UnicodeDecodeError as error:
        raise StreamDiffVSRError(failure, "it is no text", remedy) from error
    if not token:
        raise StreamDiffVSRError(failure, "it is empty", remedy)
    if len(content) > _LONGEST_TOKEN or not token.isprintable():
        raise StreamDiffVSRError(failure, "it holds more than one short line", remedy)
    if os.name == "posix" and mode & stat.S_IROTH:
        tell(f"every user of this machine can read the token in {str(path)!r}: chmod 600 helps")
    return token


def _is_place(text: str) -> bool:
    """Returns whether a text is meant as HOST:PORT or :PORT, not as a source or an option.

    A host or a port alone is meant so, too: what it lacks is then said.
    """
    if re.fullmatch(r"\d+|(localhost|\d+(\.\d+){3})(:\w*)?", text):
        return True
    host, colon, port = text.rpartition(":")
    return bool(colon) and port.isdigit() and "/" not in host and host not in ("webcam", "screen")
