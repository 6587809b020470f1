"""Folders of this user alone: no one else owns them or can write to them.

Windows has other rights than owners and modes; there every folder passes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path

from ..errors import StreamDiffVSRError

ROOT_UID = 0
EVERYONE_ELSE = 0o077


def private_folder(path: Path, what: str, remedy: str) -> Path:
    """Returns a folder that only this user can enter; makes it, or takes the others' rights away.

    A folder that cannot be made is returned all the same: whoever writes to it gets the error.

    Args:
        what: What the folder is, for the error.
        remedy: What to do about a folder that others can write to.

    Raises:
        StreamDiffVSRError: It belongs to another user, or others can write to it.
    """
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    if why := why_exposed(path):
        raise StreamDiffVSRError(f"{what} {path} is not used", why, remedy)
    with contextlib.suppress(OSError):  # root's own folder, or none at all
        mode = stat.S_IMODE(path.stat().st_mode)
        if sys.platform != "win32" and mode & EVERYONE_ELSE:
            path.chmod(mode & ~EVERYONE_ELSE)
    return path


def why_exposed(path: Path) -> str:
    """Returns which other user owns a path or can write to it, or ""; see the other two."""
    return why_foreign(path) or why_writable(path)


def why_writable(path: Path) -> str:
    """Returns who else than its owner can write to a file or folder, or "" if no one can.

    A group may if it is the user's own, which many systems make with the user and in which there
    is no one else.
    """
    if sys.platform == "win32":
        return ""
    try:
        found = path.stat()
    except OSError:
        return ""
    if found.st_mode & stat.S_IWOTH:
        return "every user of this machine can write to it"
    if found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid):
        return f"its group, {_group(found.st_gid)}, can write to it"
    return ""


def why_foreign(path: Path) -> str:
    """Returns which other user owns a file or folder, or "" if it is this one, or root."""
    if sys.platform == "win32":
        return ""
    try:
        owner = path.stat().st_uid
    except OSError:
        return ""
    if owner in (os.geteuid(), ROOT_UID):
        return ""
    return f"it belongs to {_user(owner)}, not to {_user(os.geteuid())}"


if sys.platform != "win32":
    import grp
    import pwd

    def _user(uid: int) -> str:
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return f"user {uid}"

    def _group(gid: int) -> str:
        try:
            return grp.getgrgid(gid).gr_name
        except KeyError:
            return str(gid)

    def _is_own_group(gid: int) -> bool:
        name = _user(os.geteuid())
        try:
            group = grp.getgrgid(gid)
        except KeyError:
            return False
        return group.gr_name == name and set(group.gr_mem) <= {name}
