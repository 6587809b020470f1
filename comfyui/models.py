"""The models that the loader offers: built in, in ComfyUI's models folder, or to be fetched.

Knows names and folders; what is in a folder is for whoever loads it to say.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import StreamDiffVSRError
from . import host

BUILT_IN = "tiny"
RELEASED = {
    "v1": "Jamichsu/Stream-DiffVSR",
    "v1-mix-degradation": "Jamichsu/Stream-DiffVSR-Mix-Degradation",
}


def names() -> list[str]:
    """What there is to choose from: the released models, the built-in one, local folders."""
    local = [entry.name for folder in host.model_folders() for entry in _folders_in(folder)]
    return list(dict.fromkeys([*RELEASED, BUILT_IN, *sorted(local)]))


def find(name: str, *, local: bool = True, fetch: bool = True) -> str:
    """A model as `streamdiffvsr.build` takes it: `tiny`, a folder, or a Hugging Face repository.

    A folder of that name in ComfyUI/models/StreamDiffVSR comes before what would be fetched.

    Args:
        name: One of `names`, a folder's path, or owner/name of a repository.
        local: Look in ComfyUI's models folder.
        fetch: Let it be fetched if it is not here.

    Raises:
        StreamDiffVSRError: There is no such model, or it would have to be fetched.
    """
    if name == BUILT_IN:
        return BUILT_IN
    folders = host.model_folders()
    named = bool(name.strip(". "))  # else it would be the folder of models itself
    here = [f / name for f in folders if (f / name).is_dir()] if local and named else []
    if here or (named and Path(name).expanduser().is_dir()):
        return str(here[0] if here else Path(name).expanduser())
    where = f"put a model folder at {folders[0] / name}" if "/" not in name else "give a folder"
    repository = RELEASED.get(name, name if name.count("/") == 1 else None)
    if repository is None:
        raise StreamDiffVSRError(
            f"no model {name!r:.90}",
            f"there are {', '.join(names())}",
            f"choose one of them, or {where} (docs/models.md says what is in it)",
        )
    if not fetch:
        raise StreamDiffVSRError(
            f"model {name!r:.90} is not here",
            "use_huggingface is false, so it is not fetched",
            f"{where}, or set use_huggingface to true",
        )
    return repository


def _folders_in(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.is_dir()]
    except OSError:
        return []
