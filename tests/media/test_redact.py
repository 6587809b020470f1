"""No secret of an address survives redaction, and what is no secret does."""

import pytest

from streamdiffvsr.runtime.media.redact import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://u:p@host/live", "rtsp://***@host/live"),
        ("rtsp://u@host:554/live", "rtsp://***@host:554/live"),
        ("rtsp://u:p@ss@host/live", "rtsp://***@host/live"),
        ("rtsp://u:p/w@host/live", "rtsp://***@host/live"),
        ("rtsp://u:p?w#x@host/live", "rtsp://***@host/live"),
        ("rtsp://u:p'w\"@host/", "rtsp://***@host/"),
        ("rtsp://u:p@[::1]:8554/live", "rtsp://***@[::1]:8554/live"),
        ("RTSP://U:P@HOST/", "RTSP://***@HOST/"),
        ("async:https://u:p@h/x", "async:https://***@h/x"),
        ("'rtsp://u:p@a/' and 'http://v:q@b/'", "'rtsp://***@a/' and 'http://***@b/'"),
        ("http://h/x?token=abc&n=1", "http://h/x?token=***&n=1"),
        ("http://h/x?n=1&X-Amz-Signature=abc#t", "http://h/x?n=1&X-Amz-Signature=***#t"),
        ("http://h/x?PASSWORD=abc", "http://h/x?PASSWORD=***"),
        ("could not open 'http://h/x?key=abc': no", "could not open 'http://h/x?key=***': no"),
        ("rtmp://h/app/key", "rtmp://h/app/***"),
        ("rtmps://h:443/app/key?x=1", "rtmps://h:443/app/***?x=1"),
        ("rtmp://u:p@h/app/key: refused", "rtmp://***@h/app/***: refused"),
        ("could not reach 'rtmp://h/app/a-b_c'.", "could not reach 'rtmp://h/app/***'."),
        ("Authorization: Basic dTpw\r\nX: y", "Authorization: ***\r\nX: y"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(text, shown):
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no address at all, me@example.org",
        "rtsp://host:554/live",
        "rtsp://[::1]:8554/live@2",
        "http://host/@name/live",
        "https://host:443/@name/live?mail=a@b",
        "udp://@239.0.0.1:1234",
        "rtmp://host",
        "rtsp://host:554: refused",
    ],
)
def test_an_address_without_secrets_is_left_alone(text):
    assert redact(text) == text
