"""What our HTTP/1.1 engine sends, as `h11` understands it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fawa.net.engine import (
    Headers,
    Role,
)
from fawa.net.engine_http1 import H1Engine
from tests.net.talk import examples, h11_answers
from tests.net.test_engine_http1 import NAMES, SPACED, WHOLE


@settings(max_examples=examples(200))
@given(
    status=st.sampled_from([200, 201, 404, 500, 204, 304]),
    fields=st.lists(st.tuples(NAMES.map(bytes.lower), SPACED), max_size=4),
    body=st.lists(st.binary(max_size=50), max_size=4),
    trailers=st.lists(st.tuples(NAMES.map(bytes.lower), SPACED), max_size=2),
    known=st.booleans(),
    version=st.sampled_from(["1.1", "1.0"]),
    method=st.sampled_from(["GET", "HEAD"]),
    close=st.booleans(),
)
def test_h11_understands_what_we_send(
    status: int,
    fields: Headers,
    body: list[bytes],
    trailers: Headers,
    known: bool,
    version: str,
    method: str,
    close: bool,
) -> None:
    engine = H1Engine(Role.SERVER)
    keep = b"Connection: keep-alive\r\n" if version == "1.0" else b""
    engine.receive(b"%b / HTTP/%b\r\nHost: h\r\n%b\r\n" % (method.encode(), version.encode(), keep))
    to_head = method == "HEAD"
    bodyless = to_head or status in (204, 304)
    size = sum(map(len, body))
    length = [(b"content-length", b"%d" % size)] if known and status not in (204, 304) else []
    engine.start(status, [*fields, *length], version=version, bodyless=bodyless, to_head=to_head, close=close)
    sent = engine.take()
    assert engine.counts_length == (bool(length) or bodyless or version == "1.0")
    for piece in [] if bodyless else body:
        engine.push(piece)
        sent += engine.take()
    chunked = not bodyless and not length and version == "1.1"
    engine.finish(trailers)
    sent += engine.take()
    [answer] = h11_answers(sent, [method], ended=engine.must_close or close)
    assert (answer.status, answer.body) == (status, b"" if bodyless else b"".join(body))
    assert answer.trailers == (trailers if chunked else [])
    assert answer.headers[: len(fields)] == fields
    assert (answer.header(b"connection") == b"close") == (close or engine.must_close)


def test_a_response_that_does_not_keep_its_word_is_refused() -> None:
    engine = H1Engine(Role.SERVER)
    engine.receive(WHOLE[0])
    engine.start(200, [(b"content-length", b"3")], version="1.1", bodyless=False)
    engine.push(b"ab")
    with pytest.raises(ValueError, match="1 bytes shorter"):
        engine.finish()
    with pytest.raises(ValueError, match="longer"):
        engine.push(b"cd")


def test_what_sendfile_sent_counts() -> None:
    engine = H1Engine(Role.SERVER)
    engine.receive(WHOLE[0])
    engine.start(200, [(b"content-length", b"10")], version="1.1", bodyless=False)
    assert engine.take()
    assert not engine.has_output
    engine.sent_aside(10)
    engine.finish()
    with pytest.raises(ValueError, match="longer"):
        engine.sent_aside(1)
