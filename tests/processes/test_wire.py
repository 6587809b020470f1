"""Messages arrive as they were sent, and garbage is refused before it is believed."""

import io
import os
import threading
from fractions import Fraction

import pytest

from streamdiffvsr.runtime.processes import messages


def pipe() -> tuple[io.FileIO, io.FileIO]:
    reading, writing = os.pipe()
    return io.FileIO(reading, "rb"), io.FileIO(writing, "wb")


def test_messages_larger_than_the_pipe_arrive_whole_and_in_order():
    inbox, outbox = pipe()
    payload = os.urandom(3_000_000)

    def send():
        messages.send(outbox, {"kind": "frame", "name": "ä"}, payload)
        messages.send(outbox, {"kind": "end"})
        outbox.close()

    with inbox:
        thread = threading.Thread(target=send)
        thread.start()
        assert messages.receive(inbox) == ({"kind": "frame", "name": "ä"}, payload)
        assert messages.receive(inbox) == ({"kind": "end"}, b"")
        with pytest.raises(EOFError):
            messages.receive(inbox)
        thread.join()


def test_a_message_cut_in_the_middle_is_an_end():
    inbox, outbox = pipe()
    with inbox:
        messages.send(outbox, {"kind": "end"})
        os.write(outbox.fileno(), b"\x05\x00")
        outbox.close()
        messages.receive(inbox)
        with pytest.raises(EOFError):
            messages.receive(inbox)


def test_a_size_no_message_has_is_refused_before_memory_is_taken():
    inbox, outbox = pipe()
    with inbox, outbox:
        outbox.write(b"\xff" * 12)
        with pytest.raises(messages.WireError, match="not a message"):
            messages.receive(inbox, lambda count: pytest.fail(f"asked for {count} bytes"))


def test_a_message_that_is_too_large_is_not_sent():
    inbox, outbox = pipe()
    with inbox, outbox, pytest.raises(messages.WireError, match="too large"):
        messages.send(outbox, {"kind": "x" * messages.MAX_HEADER_BYTES})


@pytest.mark.parametrize("value", [None, Fraction(1001, 30000), Fraction(0)])
def test_fractions_are_exact(value):
    assert messages.unpack(messages.pack(value)) == value
