"""The state's file form: whole or not at all, and refused in one line when it is not a state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from streamdiffvsr import StreamState
from streamdiffvsr.errors import StreamDiffVSRError

HR = np.linspace(-2.5, 2.5, 3 * 8 * 12, dtype=np.float32).reshape(1, 3, 8, 12)
LR = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    state = StreamState(seed=9, frame_index=2**40, previous_hr=HR, previous_lr=LR)
    state.save(tmp_path / "s.safetensors")
    again = StreamState.load(tmp_path / "s.safetensors")
    assert (again.seed, again.frame_index) == (9, 2**40)
    assert again.previous_hr is not None and again.previous_hr.dtype == np.float32
    np.testing.assert_array_equal(again.previous_hr, HR)
    np.testing.assert_array_equal(again.previous_lr, LR)


def test_a_half_precision_state_survives_exactly(tmp_path: Path) -> None:
    half = HR.astype(np.float16)
    StreamState(previous_hr=half, previous_lr=LR).save(tmp_path / "s")
    again = StreamState.load(tmp_path / "s").previous_hr
    assert again is not None
    np.testing.assert_array_equal(again.astype(np.float16), half)


def test_a_fresh_state_round_trips(tmp_path: Path) -> None:
    StreamState(seed=4).save(tmp_path / "s")
    assert StreamState.load(tmp_path / "s") == StreamState(seed=4)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    StreamState(seed=1).save(path)

    def full(tensors: object, name: str, metadata: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("streamdiffvsr.runtime.state.save_file", full)
    with pytest.raises(StreamDiffVSRError, match=r": the disk is full; choose a writable folder"):
        StreamState(seed=2).save(path)
    assert StreamState.load(path).seed == 1
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_what_safetensors_tells_of_the_system_is_in_words(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")

    monkeypatch.setattr("streamdiffvsr.runtime.state.save_file", refuse)
    with pytest.raises(StreamDiffVSRError, match=r": the file has grown to the largest size"):
        StreamState().save(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StreamDiffVSRError, match="cannot write the state"):
        StreamState().save(tmp_path / "none" / "s")


@pytest.mark.parametrize("content", [b"", b"\xff" * 8 + b"{}", b"hello world, not a state"])
def test_what_is_not_a_state_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(StreamDiffVSRError, match=r"could not read .*damaged, or is no state"):
        StreamState.load(tmp_path / "s")


def test_tensors_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    good = {"format": "streamdiffvsr-state-1", "state": '{"seed": 0, "frame_index": 0}'}
    for tensors in ({"previous_hr": HR}, {"previous_hr": HR, "previous_lr": LR[:1]}):
        save_file(tensors, tmp_path / "s", good)
        with pytest.raises(StreamDiffVSRError, match="previous_"):
            StreamState.load(tmp_path / "s")
    save_file({"x": HR}, tmp_path / "s", {"format": "other"})
    with pytest.raises(StreamDiffVSRError, match="format"):
        StreamState.load(tmp_path / "s")


@pytest.mark.parametrize("values", [{"seed": -1}, {"frame_index": -1}, {"seed": 2**64}])
def test_counts_must_fit(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be 0"):
        StreamState(**values)
