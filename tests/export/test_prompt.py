"""The prompt: read, or computed once by a tiny text encoder that is made here."""

from __future__ import annotations

import json
from pathlib import Path

import platformdirs
import pytest
import torch
from safetensors.torch import load_file, save_file

from streamdiffvsr import durable
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.export import model
from streamdiffvsr.export.model import prompt_embeds
from streamdiffvsr.export.model_source import model_digest

transformers = pytest.importorskip("transformers")

WIDTH, TOKENS = 32, 9
VOCABULARY = ["<|startoftext|>", "<|endoftext|>", "!", "a", "b", "a</w>", "b</w>", "!</w>"]
START, END, PAD = 0, 1, 2


@pytest.fixture(scope="module")
def text_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`text_encoder/` with random weights and `tokenizer/` with eight words; pads with '!'."""
    folder = tmp_path_factory.mktemp("text")
    config = transformers.CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    transformers.CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    words = {word: i for i, word in enumerate(VOCABULARY)}
    (tokenizer / "vocab.json").write_text(json.dumps(words))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    special = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "bos_token": VOCABULARY[START],
        "eos_token": VOCABULARY[END],
        "unk_token": VOCABULARY[END],
        "pad_token": VOCABULARY[PAD],
    }
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


@pytest.fixture
def folder(text_source: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder with a text encoder in the place of the embedding; a cache of its own."""
    (tiny_model / "prompt_embeds.safetensors").unlink()
    for name in ("text_encoder", "tokenizer"):
        (tiny_model / name).mkdir()
        for path in (text_source / name).iterdir():
            (tiny_model / name / path.name).write_bytes(path.read_bytes())
    cache = tiny_model.parent / "cache"
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_: cache)
    return tiny_model


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("prompt_embeds.*"))


def test_the_given_embedding_is_read_as_it_is(parity_model: Path) -> None:
    stored = load_file(parity_model / "prompt_embeds.safetensors")["prompt_embeds"]
    assert torch.equal(prompt_embeds(parity_model, WIDTH), stored)


def test_the_empty_prompt_is_padded_to_full_length(folder: Path) -> None:
    encoder = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder")
    ids = torch.tensor([[START, END] + [PAD] * (TOKENS - 2)])
    with torch.no_grad():
        expected = encoder.eval()(ids).last_hidden_state
    embeds = prompt_embeds(folder, WIDTH)
    assert embeds.shape == (1, TOKENS, WIDTH)
    assert torch.allclose(embeds, expected, atol=1e-6)


def test_it_is_computed_once_and_the_digest_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = model_digest(folder)
    first = prompt_embeds(folder, WIDTH)
    assert len(kept(folder)) == 1
    monkeypatch.setattr(model, "_encode", lambda _: pytest.fail("computed again"))
    assert torch.equal(prompt_embeds(folder, WIDTH), first)
    assert model_digest(folder) == digest


def test_another_text_encoder_is_not_answered_from_the_old_cache(folder: Path) -> None:
    first = prompt_embeds(folder, WIDTH)
    encoder = folder / "text_encoder" / "model.safetensors"
    save_file({k: v * 1.5 for k, v in load_file(encoder).items()}, encoder, {"format": "pt"})
    assert not torch.allclose(prompt_embeds(folder, WIDTH), first)


def test_a_broken_cache_is_computed_again(folder: Path) -> None:
    first = prompt_embeds(folder, WIDTH)
    kept(folder)[0].write_bytes(b"cut")
    assert torch.equal(prompt_embeds(folder, WIDTH), first)
    assert torch.equal(prompt_embeds(folder, WIDTH), first)


def test_a_read_only_folder_uses_the_users_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = model.save_whole

    def write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        if folder in path.parents:
            raise PermissionError(13, "read-only")
        real(path, tensors)

    monkeypatch.setattr(model, "save_whole", write)
    first = prompt_embeds(folder, WIDTH)
    assert not kept(folder)
    assert len(kept(folder.parent / "cache")) == 1
    monkeypatch.setattr(model, "_encode", lambda _: pytest.fail("computed again"))
    assert torch.equal(prompt_embeds(folder, WIDTH), first)


def test_a_write_that_fails_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(durable.os, "replace", full)
    assert prompt_embeds(folder, WIDTH).shape == (1, TOKENS, WIDTH)
    assert not list(folder.parent.rglob("*.part"))
    assert not kept(folder.parent)


def test_the_width_must_be_the_networks(folder: Path, parity_model: Path) -> None:
    with pytest.raises(StreamDiffVSRError, match=r"text_encoder does not fit .*\(1, 9, 32\)"):
        prompt_embeds(folder, 64)
    with pytest.raises(StreamDiffVSRError, match=r"safetensors does not fit .*\(1, 77, 32\)"):
        prompt_embeds(parity_model, 64)


@pytest.mark.parametrize("shape", [(77, 32), (2, 77, 32), (1, 0, 32), (1, 2000, 32)])
def test_embeddings_of_other_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_file({"prompt_embeds": torch.zeros(shape)}, tmp_path / "prompt_embeds.safetensors")
    with pytest.raises(StreamDiffVSRError, match="expected \\(1, tokens, 32\\)"):
        prompt_embeds(tmp_path, WIDTH)


def test_two_tensors_are_ambiguous(tmp_path: Path) -> None:
    both = {"positive": torch.zeros(1, 2, 32), "negative": torch.zeros(1, 2, 32)}
    save_file(both, tmp_path / "prompt_embeds.safetensors")
    with pytest.raises(StreamDiffVSRError, match="one tensor, not negative, positive"):
        prompt_embeds(tmp_path, WIDTH)


def test_an_incomplete_text_encoder_is_not_filled_with_noise(folder: Path) -> None:
    encoder = folder / "text_encoder" / "model.safetensors"
    state = load_file(encoder)
    name = next(key for key in state if "final_layer_norm.weight" in key)
    del state[name]
    save_file(state, encoder, {"format": "pt"})
    with pytest.raises(StreamDiffVSRError, match=r"lack .*final_layer_norm\.weight"):
        prompt_embeds(folder, WIDTH)


def test_a_text_encoder_without_tokenizer(folder: Path) -> None:
    for path in (folder / "tokenizer").iterdir():
        path.unlink()
    with pytest.raises(StreamDiffVSRError, match="has no prompt embedding"):
        prompt_embeds(folder, WIDTH)


def test_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer" / "vocab.json").write_text("{")
    with pytest.raises(StreamDiffVSRError, match="cannot load") as caught:
        prompt_embeds(folder, WIDTH)
    assert "\n" not in str(caught.value)
