"""Files that are whole or not there."""

import pytest

from streamdiffvsr.durable import write_atomically


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_takes_its_name_when_it_is_whole(tmp_path, sync):
    path = tmp_path / "state.bin"
    path.write_bytes(b"old")
    with write_atomically(path, sync=sync) as part:
        part.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"state.bin"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "state.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), write_atomically(path) as part:
        part.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"state.bin"}


def test_two_that_write_one_name_do_not_meet(tmp_path):
    path = tmp_path / ("n" * 251 + ".bin")  # as long as a disk takes
    with write_atomically(path) as first, write_atomically(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
        assert first != second
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == {path.name}
