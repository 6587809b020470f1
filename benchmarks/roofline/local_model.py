"""A model that is on this disk already: its folder, and what its graphs' shapes follow from.

Nothing is fetched: counting is not worth gigabytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import StreamDiffVSRError
from ...export.model_source import BUILT_IN, PROMPT_FILE, resolve_model

if TYPE_CHECKING:
    from ...export.configs import ModelConfigs

PROMPT_TOKENS = 77  # of the text encoder that the released model was trained with


def find_local(name: str) -> Path:
    """The folder of a model by the name that engines were built with.

    Raises:
        StreamDiffVSRError: It is not on this disk.
    """
    if name == BUILT_IN or Path(name).expanduser().exists():
        return resolve_model(name)
    repository, _, revision = name.partition("@")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
    except Exception as error:  # not installed, not fetched, no name of a repository
        raise StreamDiffVSRError(f"the model {name} is not on this disk") from error


def configs_of(folder: Path) -> tuple[ModelConfigs, int]:
    """The configs of a model folder, and how many tokens its prompt has."""
    from ...export.config_files import read_configs

    return read_configs(folder), _prompt_tokens(folder / PROMPT_FILE)


def _prompt_tokens(path: Path) -> int:
    """The length of an embedding, from its file's header; one that is computed has the usual."""
    if not path.is_file():
        return PROMPT_TOKENS
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        (name,) = file.keys()
        return int(file.get_slice(name).get_shape()[1])
