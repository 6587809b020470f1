"""Finds a model (built in, a folder or on Hugging Face), and computes its files' digest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import StreamDiffVSRError, UsageError
from ..reading import file_digest, open_regular
from .config_files import find_flow
from .folder_layout import PARTS, SCHEDULER_FILE, part_folder, part_weights
from .weight_files import DIFFUSERS_STEM, TRANSFORMERS_STEMS, check_header, find_weights

TEXTS, PICKLES = (".json", ".txt"), (".pth", ".bin")
MAX_TEXT_BYTES = 64 * 2**20  # a tokenizer has at most about 20 million
ContentDigest = Callable[[Path], str]
PROMPT_FILE = "prompt_embeds.safetensors"
TEXT_ENCODER_CONFIG = "text_encoder/config.json"


def model_digest(folder: Path, digest: ContentDigest = file_digest) -> str:
    """Returns the SHA-256 of a model folder, as 64 hexadecimal digits.

    Args:
        digest: Returns the digest of one file's content; it may remember unchanged files.

    Raises:
        StreamDiffVSRError: A file that the model needs is missing or cannot be read.
    """
    files = model_files(folder)
    check_files(folder, files)
    return files_digest(folder, files, digest)


def check_files(folder: Path, files: Sequence[Path]) -> None:
    """Refuses what cannot be a model's file, at once: before gigabytes of it are read.

    Raises:
        StreamDiffVSRError: A file is no ordinary one, a text is larger than any, or a header lies.
    """
    for path in files:
        if path.suffix == ".safetensors" and path.parent != folder / "text_encoder":
            check_header(path)
            continue
        what = f"cannot read {path}"
        try:
            with open_regular(path) as file:
                size, start = os.fstat(file.fileno()).st_size, file.read(1)
        except OSError as error:
            raise StreamDiffVSRError(what, error.strerror or str(error)) from None
        if path.suffix in TEXTS and size > MAX_TEXT_BYTES:
            why = f"it has {size:,} bytes, and at most {MAX_TEXT_BYTES:,} are read"
            raise StreamDiffVSRError(what, why, "fetch the file again")
        if path.suffix in PICKLES and start == b"\0":
            raise StreamDiffVSRError(what, "it begins with zeros", "fetch the file again")


def model_files(folder: Path) -> list[Path]:
    """Returns exactly the files of a model folder that affect its output."""
    files = [folder / SCHEDULER_FILE, *find_flow(folder).all()]
    for part in PARTS:
        files += [part_folder(folder, part) / "config.json", *part_weights(folder, part).all()]
    prompt = folder / PROMPT_FILE
    return [*files, *([prompt] if prompt.exists() else text_files(folder))]


def text_files(folder: Path) -> list[Path]:
    """Returns the files from which a missing prompt embedding is computed.

    Raises:
        StreamDiffVSRError: There is no text encoder with its tokenizer.
    """
    tokenizer = folder / "tokenizer"
    tokens = sorted(p for p in tokenizer.glob("*") if p.suffix in (".json", ".txt"))
    if not tokens or not (folder / TEXT_ENCODER_CONFIG).is_file():
        raise StreamDiffVSRError(
            f"{folder} has no prompt embedding",
            f"neither {PROMPT_FILE} nor text_encoder/ with tokenizer/ is there",
            "the folder layout is in docs/models.md",
        )
    encoder = folder / "text_encoder"
    return [
        folder / TEXT_ENCODER_CONFIG,
        *find_weights(encoder, *TRANSFORMERS_STEMS).all(),
        *tokens,
    ]


def files_digest(folder: Path, files: list[Path], digest: ContentDigest = file_digest) -> str:
    """Returns the SHA-256 of relative names and contents, in the order of the names."""
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        try:
            total.update(bytes.fromhex(digest(path)))
        except OSError as error:
            raise StreamDiffVSRError(f"cannot read {path}", error.strerror or str(error)) from None
    return total.hexdigest()


BUILT_IN = "tiny"
RELEASED = "Jamichsu/Stream-DiffVSR"
BUILT_IN_FOLDER = Path(__file__).resolve().parent.parent / "models" / "tiny"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
LAYOUT = "unet/, controlnet/, vae/, scheduler/, flow/ and prompt_embeds.safetensors"
BY_HAND = f"fill a folder with {LAYOUT} by hand (docs/models.md) and give its path"
INSTALL = "install it: pip install 'streamdiffvsr[export]'"

SMALL_FILES = (
    *(f"{part}/config.json" for part in PARTS),
    SCHEDULER_FILE,
    PROMPT_FILE,
    "flow/*.json",
    "flow/*.safetensors",
    "flow/*.pth",
    "tokenizer/*.json",
    "tokenizer/*.txt",
)
# The files that each further round of fetching requests, until a part has its weights.
ROUNDS = (
    ("{stem}.safetensors", "{stem}.safetensors.index.json", "{stem}-*.safetensors"),
    ("{stem}.fp16.safetensors", "{stem}*.index*.json", "{stem}*fp16*-*.safetensors"),
    ("{stem}.bin", "{stem}.fp16.bin"),
)


def resolve_model(name: str, revision: str | None = None) -> Path:
    """Returns the folder of a model.

    Args:
        name: `tiny` for the built-in model, a folder, or a Hugging Face repository as `owner/name`
            or `owner/name@revision`.
        revision: Branch, tag or commit of the repository; None for its default branch.

    Raises:
        StreamDiffVSRError: There is no such model, or it cannot be fetched.
        UsageError: The name is none of the three.
    """
    if name == BUILT_IN:
        return _built_in()
    path = os.path.expanduser(name)
    if os.path.isdir(path):  # os.path takes any string: pathlib raises on some
        if revision is not None:
            raise UsageError(f"{name} is a folder", "only a repository has revisions")
        return _checked(Path(path))
    if os.path.exists(path):
        raise UsageError(f"{name} is a file", "a model is a folder", "give the folder it is in")
    repository, _, pinned = name.partition("@")
    if not REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        why = "it is no folder here, and no repository has such a name"
        raise UsageError(f"no model {name!r:.90}", why, f"give {BUILT_IN}, a folder, or owner/name")
    return _fetch(repository, revision or pinned or None)


def _checked(folder: Path) -> Path:
    """Returns the folder if it has any part of a model; the readers report what is missing."""
    if not any((folder / part).is_dir() for part in ("unet", "controlnet", "vae", "flow")):
        raise UsageError(
            f"{folder} is not a model folder",
            "it has none of unet/, controlnet/, vae/ and flow/",
            "see docs/models.md, which says what is in one",
        )
    return folder


def released_or_built_in(tell: Callable[[str], None]) -> str:
    """Returns the released repository if it is here or can be fetched, else the built-in model.

    `tell` receives one line if it is the built-in model.
    """
    try:
        resolve_model(RELEASED)
    except StreamDiffVSRError as error:
        tell(f"the released weights are not available, so the model is {BUILT_IN}: {error.what}")
        return BUILT_IN
    return RELEASED


def _built_in() -> Path:
    if not BUILT_IN_FOLDER.is_dir():
        raise StreamDiffVSRError(
            "the built-in model is not here",
            f"{BUILT_IN_FOLDER} is missing from this installation",
            "install from a complete checkout, or give a model folder",
        )
    return BUILT_IN_FOLDER


def _fetch(repository: str, revision: str | None) -> Path:
    folder = _snapshot(repository, revision, SMALL_FILES)
    pinned = folder.name  # the commit: later rounds must not see a newer one
    for part in PARTS:
        _fetch_weights(repository, pinned, folder / part, DIFFUSERS_STEM)
    if not (folder / PROMPT_FILE).is_file():
        _snapshot(repository, pinned, ["text_encoder/config.json"])
        _fetch_weights(repository, pinned, folder / "text_encoder", *TRANSFORMERS_STEMS)
    try:
        find_flow(folder)
    except StreamDiffVSRError:
        _add_flow(repository, folder)
    return folder


def _fetch_weights(repository: str, revision: str, part: Path, *stems: str) -> None:
    """Fetches a part's weights: in full precision, else in half, else a pickle of tensors."""
    for patterns in ((), *ROUNDS):  # first, the files that are here already
        wanted = [f"{part.name}/{p.format(stem=stem)}" for stem in stems for p in patterns]
        if wanted:
            _snapshot(repository, revision, wanted)
        with contextlib.suppress(StreamDiffVSRError):
            find_weights(part, *stems)
            return
    raise StreamDiffVSRError(f"{repository} has no weights in {part.name}/", remedy=BY_HAND)


def _snapshot(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Fetches the files that match and are not here yet; returns the snapshot's folder."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        why = "huggingface_hub is not installed"
        raise StreamDiffVSRError(f"cannot fetch {repository}", why, INSTALL) from None
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[*patterns]))
    except Exception as error:  # the library, the network and the proxy share no base class
        at = f"{repository}@{revision}" if revision else repository
        first = re.split(r"\n|\. ", str(error).strip(), maxsplit=1)[0]  # the rest is advice
        why = first[:200].rstrip(".") or type(error).__name__
        raise StreamDiffVSRError(
            f"no folder {repository} here, and cannot fetch {at} from Hugging Face", why, BY_HAND
        ) from None


def _add_flow(repository: str, folder: Path) -> None:
    """Puts torchvision's RAFT-large into the snapshot, as the released pipeline would use it."""
    what = f"{repository} comes without optical-flow weights"
    by_hand = f"put raft_large.safetensors into {folder / 'flow'} (docs/models.md)"
    try:
        raft = import_module("torchvision.models.optical_flow")
    except ImportError:
        why = "torchvision, which knows where they are, is not installed"
        raise StreamDiffVSRError(
            what, why, f"install it (pip install torchvision), or {by_hand}"
        ) from None
    from .weights import save_whole

    try:
        state: dict[str, Any] = raft.Raft_Large_Weights.C_T_SKHT_V2.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
        save_whole(folder / "flow" / "raft_large.safetensors", state)
    except Exception as error:  # network, hash and disk errors share no base class
        why = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise StreamDiffVSRError(what, why, by_hand) from None
