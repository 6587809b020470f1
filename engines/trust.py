"""Decides which engine sets may be loaded: a plan is machine code, so only those of known origin.

A set is trusted if its manifest, which has the digests of all its files, is signed with a key that
this user has: the user's own, which is made when it is first needed, or one that machines or
containers share. Any other set is trusted once the user has said so, by the digest of its manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shlex
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock

from ..durable import why, write_atomically
from ..errors import StreamDiffVSRError
from ..reading import read_json, read_small
from .cache import cache_root, in_cache
from .manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    manifest_bytes,
    odd_file,
    parse_manifest,
    verify_files,
)
from .private import private_folder, why_exposed, why_foreign, why_writable

KEY_VARIABLE = "STREAMDIFFVSR_ENGINES_KEY"
KEY_FILE_VARIABLE = "STREAMDIFFVSR_ENGINES_KEY_FILE"
KEY_VARIABLES = (KEY_VARIABLE, KEY_FILE_VARIABLE)
OWN_KEY, TRUSTED = "engines.key", "trusted.json"
SIGNED = ".hmac"  # after the name of the file that is signed
MAX_KEY_BYTES, MAX_SIGNATURE_BYTES, MAX_TRUSTED_BYTES = 4096, 4096, 2**22
KEY_BYTES = MAC_BYTES = 32
LEAST_KEY = 32  # characters
PRIVATE = "remove it, or set STREAMDIFFVSR_STATE to a folder of your own (mode 700)"
MAKE_KEY = "make one with openssl rand -hex 32"


def trusted_manifest(folder: Path) -> Manifest:
    """Reads the manifest of an engine set that may be loaded.

    What it says holds once `verify_files` has compared the files with it.

    Raises:
        StreamDiffVSRError: There is none, the set is not trusted, has links or pipes for files, or
            is in the user's cache and another user's.
    """
    content = manifest_bytes(folder)
    manifest = parse_manifest(folder, content)
    if untrusted := why_refused(folder, content):
        known = f"streamdiffvsr engines trust {shlex.quote(str(folder))}"
        raise StreamDiffVSRError(
            f"the engines of {folder} are not trusted",
            untrusted,
            f"build them again, or, if you know who built these: {known}",
        )
    if odd := odd_file(folder):
        raise StreamDiffVSRError(f"{folder} is damaged", odd, "rebuild the engines")
    return manifest


def why_refused(folder: Path, content: bytes) -> str:
    """Returns why an engine set is not trusted, or "" if it is.

    Args:
        content: The content of its manifest file, as it is used.

    Raises:
        StreamDiffVSRError: It cannot be known, as a key cannot be used.
    """
    return _why_not_ours(folder) or why_untrusted(folder / MANIFEST, content)


def why_untrusted(path: Path, content: bytes) -> str:
    """Returns why a file, a manifest or a list of graphs, is not trusted, or "" if it is.

    Args:
        content: The file's content, as it is used: the file may change meanwhile.
    """
    if (digest := hashlib.sha256(content).hexdigest()) in (known := _trusted()):
        return ""
    signatures, changed = _signatures(path), False
    for key in _keys():
        if found := signatures.get(_key_name(key)):
            if _is_same(found, _mac(key, path.name, content)):
                return ""
            changed = True
    if changed:
        return f"{path.name} was changed after it was signed"
    if str(path.parent.resolve()) in known.values():
        return f"{path.name} is not the one that was trusted, {digest[:16]} now"
    if signatures:
        return f"{path.name} is signed with a key that is not yours"
    return f"{path.name} is not signed: an earlier version made it, or someone else"


def sign(path: Path) -> None:
    """Signs a file with the user's key, and with the shared one if there is one.

    Raises:
        StreamDiffVSRError: There is no key, and none can be made.
        OSError: The signature cannot be written.
    """
    content = read_small(path, MAX_MANIFEST_BYTES, follow=False)
    made = {_key_name(key): _mac(key, path.name, content) for key in require_keys()}
    with write_atomically(path.with_name(path.name + SIGNED)) as part:
        part.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


def seal(name: str, content: bytes) -> bytes:
    """Returns a content behind a signature of it, under a name, for `unseal`.

    Raises:
        StreamDiffVSRError: There is no key, and none can be made.
    """
    return bytes.fromhex(_mac(require_keys()[0], name, content)) + content


def unseal(name: str, data: bytes) -> bytes:
    """Returns a content that one of this user's keys has sealed; b"" if none has."""
    mac, content = data[:MAC_BYTES].hex(), data[MAC_BYTES:]
    return content if any(_is_same(mac, _mac(key, name, content)) for key in _keys()) else b""


def trust(folder: Path) -> tuple[Manifest, str]:
    """Trusts an engine set as it is now, whoever built it; a later change of it is refused.

    Returns:
        Its manifest, and the SHA-256 of the manifest file, by which it is known.

    Raises:
        StreamDiffVSRError: It is no whole engine set, or the user's folder cannot be written.
    """
    if not os.path.lexists(folder / MANIFEST):
        there = folder.is_dir()
        inside = min(folder.glob(f"*/{MANIFEST}"), default=None) if there else None
        such = "" if inside is None else f", such as {inside.parent}"
        raise StreamDiffVSRError(
            f"{folder} is not an engine set",
            f"it has no {MANIFEST}" if there else "there is no such folder",
            f"name the folder that has {MANIFEST}{such}",
        )
    content = manifest_bytes(folder)
    manifest = parse_manifest(folder, content)
    if odd := odd_file(folder):
        raise StreamDiffVSRError(f"{folder} is not trusted", odd, "copy it with its files in it")
    verify_files(folder, manifest)
    digest = hashlib.sha256(content).hexdigest()
    with _changing() as known:
        known[digest] = str(folder.resolve())
    return manifest, digest


def distrust(folder: Path) -> bool:
    """Takes back `trust`, for the set of a folder; returns whether it was trusted.

    Raises:
        StreamDiffVSRError: The user's folder cannot be written.
    """
    now = ""
    with contextlib.suppress(StreamDiffVSRError):
        now = hashlib.sha256(manifest_bytes(folder)).hexdigest()
    with _changing() as known:
        gone = [sha for sha, at in known.items() if sha == now or at == str(folder.resolve())]
        for digest in gone:
            del known[digest]
    return bool(gone)


def is_trusted(folder: Path) -> bool:
    """Returns whether a folder has an engine set that is trusted, by a signature or by `trust`."""
    try:
        return not why_refused(folder, manifest_bytes(folder))
    except StreamDiffVSRError:
        return False


def trusted_elsewhere() -> dict[str, Path]:
    """Returns the folders outside the cache that `trust` has accepted, by their manifests' SHA-256.

    A set may have been moved since, or changed.

    Raises:
        StreamDiffVSRError: The folder of keys belongs to another user, or others can write to it.
    """
    folders = {digest: Path(folder) for digest, folder in _trusted().items()}
    return {digest: folder for digest, folder in folders.items() if not in_cache(folder)}


def require_keys() -> list[bytes]:
    """Returns the keys to sign with, the shared one first.

    Raises:
        StreamDiffVSRError: There is none, and none can be made.
    """
    if keys := _keys():
        return keys
    raise StreamDiffVSRError(
        "there is no key to sign engines with",
        f"none can be kept in {state_folder()}",
        "set STREAMDIFFVSR_STATE to a folder that can be written",
    )


def check_keys() -> None:
    """Checks the user's key and the shared one, as far as they are there; makes none.

    Raises:
        StreamDiffVSRError: One of them cannot be used, so it is not known which sets are trusted.
    """
    _shared_key()
    with contextlib.suppress(OSError):
        _read_own(state_folder() / OWN_KEY)


def state_folder() -> Path:
    """Returns the folder of the user's key and of what the user trusts, closed to all others.

    `STREAMDIFFVSR_STATE` overrides it. Where it is another user's or cannot be written, as in a
    container without a home folder, it is in the cache.

    Raises:
        StreamDiffVSRError: It belongs to another user, or others can write to it.
    """
    override = os.environ.get("STREAMDIFFVSR_STATE")
    path = Path(override) if override else platformdirs.user_state_path("streamdiffvsr")
    if not why_foreign(path):
        private_folder(path, "the folder of keys", PRIVATE)
        if os.access(path, os.W_OK) or (path / OWN_KEY).is_file():
            return path
    return private_folder(cache_root() / "state", "the folder of keys", PRIVATE)


def _keys() -> list[bytes]:
    """Returns the shared key, if there is one, and the user's own, if it can be kept."""
    shared = _shared_key()
    try:
        own = _own_key()
    except OSError:
        own = None
    return [key for key in (shared, own) if key is not None]


def _own_key() -> bytes:
    """Returns the user's key, which is made if there is none or only a part of one.

    Raises:
        StreamDiffVSRError: Others can read it.
        OSError: It cannot be read or made.
    """
    path = state_folder() / OWN_KEY
    if key := _read_own(path):
        return key
    with FileLock(path.with_name(f".{OWN_KEY}.lock")):
        if key := _read_own(path):  # another process may have made it meanwhile
            return key
        with write_atomically(path, sync=True) as part:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(part, flags, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_hex(KEY_BYTES) + "\n")
        made = _read_own(path)
        assert made is not None
        return made


def _read_own(path: Path) -> bytes | None:
    try:
        key = read_small(path, MAX_KEY_BYTES, follow=False).strip()
    except (FileNotFoundError, ValueError):
        return None
    if sys.platform != "win32" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise StreamDiffVSRError(
            f"the key {path} is not used",
            "others can read it, and may have signed engines with it",
            "remove it: another is made, and engines are built again",
        )
    return key if len(key) >= LEAST_KEY else None


def _shared_key() -> bytes | None:
    """Returns the key that machines or containers share, from the environment or a file.

    Raises:
        StreamDiffVSRError: It cannot be read, is too short, or others can write to its file.
    """
    if text := os.environ.get(KEY_VARIABLE, "").strip():
        return _long_enough(text.encode(), KEY_VARIABLE)
    if not (name := os.environ.get(KEY_FILE_VARIABLE, "")):
        return None
    what = f"cannot use the key of {KEY_FILE_VARIABLE}, {name}"
    try:
        key = read_small(Path(name), MAX_KEY_BYTES).strip()
    except (OSError, ValueError) as error:
        reason = why(error) if isinstance(error, OSError) else str(error)
        raise StreamDiffVSRError(what, reason, MAKE_KEY) from None
    if reason := why_writable(Path(name)):  # its owner may be another: the user has named it
        raise StreamDiffVSRError(what, reason, "make it yours alone: chmod 600")
    return _long_enough(key, name)


def _long_enough(key: bytes, where: str) -> bytes:
    if len(key) < LEAST_KEY:
        few = f"it has {len(key)} characters, and {LEAST_KEY} are the least"
        raise StreamDiffVSRError(f"the key of {where} is too short", few, MAKE_KEY)
    return key


def _key_name(key: bytes) -> str:
    """Returns what shows which key has signed, and does not reveal it."""
    return hmac.new(key, b"streamdiffvsr: the name of the key", "sha256").hexdigest()[:16]


def _mac(key: bytes, name: str, content: bytes) -> str:
    signed = hmac.new(key, f"streamdiffvsr: {name}\0".encode(), "sha256")
    signed.update(content)
    return signed.hexdigest()


def _is_same(given: str, made: str) -> bool:
    """Returns whether two signatures are equal, in a time that does not say where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), made.encode())


def _signatures(path: Path) -> dict[str, str]:
    """Returns a file's signatures by the names of their keys; none if they cannot be read."""
    try:
        found = read_json(path.with_name(path.name + SIGNED), MAX_SIGNATURE_BYTES, follow=False)
        return {str(key): str(mac) for key, mac in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _trusted() -> dict[str, str]:
    """Returns the digests of the manifests that the user trusts, and the folders they were in."""
    try:
        found = read_json(state_folder() / TRUSTED, MAX_TRUSTED_BYTES, follow=False)
        return {str(digest): str(folder) for digest, folder in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


@contextmanager
def _changing() -> Iterator[dict[str, str]]:
    """Gives the block what the user trusts, to change; it is written when the block ends."""
    path = state_folder() / TRUSTED
    try:
        with FileLock(path.with_name(f".{TRUSTED}.lock")):
            known = _trusted()
            yield known
            with write_atomically(path, sync=True) as part:
                part.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StreamDiffVSRError(
            f"cannot write {path}",
            why(error),
            "set STREAMDIFFVSR_STATE to a folder that can be written",
        ) from error


def _why_not_ours(folder: Path) -> str:
    """Returns whose a set in the user's cache is, or "" if it is the user's or elsewhere."""
    if not in_cache(folder):
        return ""
    cache_root()  # refused if others can write to it
    if reason := why_exposed(folder):
        return reason
    owners = ((path.name, why_foreign(path)) for path in folder.iterdir())
    return next((f"{name}: {reason}" for name, reason in owners if reason), "")
