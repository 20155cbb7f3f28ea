"""Our HTTP/2 engine beside `h2`: the same frames mean the same to both, and each understands the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fawa.net.engine import (
    PREFACE,
    Bulk,
    Data,
    EndOfMessage,
    H2Engine,
    H2ErrorCode,
    Headers,
    HttpError,
    Ping,
    Request,
    Role,
    RstStream,
    WindowUpdate,
    header_list,
)
from tests.net.talk import (
    CHUNKINGS,
    CONTINUATION,
    HEADERS,
    SETTINGS,
    H2Client,
    examples,
    frame,
    frames,
    head,
    pieces,
)


def server() -> H2Engine:
    return H2Engine(Role.SERVER, stream_window=2**20, connection_window=2**23)


@attrs.define
class Seen:
    """What a server has understood of one stream."""

    request: Headers = attrs.field(factory=list)
    body: bytearray = attrs.field(factory=bytearray)
    trailers: Headers = attrs.field(factory=list)
    ended: bool = False
    reset: int | None = None


@attrs.define
class Understood:
    """What a server has understood of a connection."""

    streams: dict[int, Seen] = attrs.field(factory=dict)
    pings: list[bytes] = attrs.field(factory=list)
    windows: list[tuple[int, int]] = attrs.field(factory=list)
    refused: bool = False

    def __getitem__(self, stream_id: int) -> Seen:
        return self.streams.setdefault(stream_id, Seen())


def ours(chunks: Sequence[bytes]) -> tuple[Understood, bytes]:
    """Read with our engine; returns what it understood, and what it sent."""
    seen, engine, sent = Understood(), server(), b""
    for chunk in chunks:
        try:
            events = engine.receive(chunk)
        except HttpError:
            seen.refused = True
            break
        finally:
            sent += engine.take()
        for event in events:
            match event:
                case Request():
                    pseudo = [(b":method", event.method), (b":path", event.target)]
                    seen[event.stream_id].request = sorted([*pseudo, *header_list(event)])
                    seen[event.stream_id].ended = event.end_stream
                case Data() | Bulk():
                    seen[event.stream_id].body += event.data
                case EndOfMessage():
                    seen[event.stream_id].trailers = event.trailers
                    seen[event.stream_id].ended = True
                case RstStream():
                    seen[event.stream_id].reset = event.error_code
                case Ping() if not event.ack:
                    seen.pings.append(event.data)
                case WindowUpdate():
                    seen.windows.append((event.stream_id, event.increment))
    return seen, sent


def theirs(chunks: Sequence[bytes]) -> Understood:
    """Read with `h2`."""
    seen = Understood()
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=False, header_encoding=None)
    )
    connection.initiate_connection()
    for chunk in chunks:
        try:
            events = connection.receive_data(chunk)
        except h2.exceptions.ProtocolError:
            seen.refused = True
            break
        for event in events:
            match event:
                case h2.events.RequestReceived():
                    seen[event.stream_id].request = plain(event.headers)
                case h2.events.DataReceived():
                    seen[event.stream_id].body += event.data
                case h2.events.TrailersReceived():
                    seen[event.stream_id].trailers = [(bytes(n), bytes(v)) for n, v in event.headers]
                case h2.events.StreamEnded():
                    seen[event.stream_id].ended = True
                case h2.events.StreamReset():
                    assert event.error_code is not None
                    seen[event.stream_id].reset = int(event.error_code)
                case h2.events.PingReceived():
                    seen.pings.append(event.ping_data)
                case h2.events.WindowUpdated():
                    assert event.stream_id is not None
                    seen.windows.append((event.stream_id, event.delta))
    return seen


def plain(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Return a header list as our engine tells it: the scheme left out, the authority as `host`."""
    names = {b":authority": b"host"}
    return sorted((names.get(bytes(n), bytes(n)), bytes(v)) for n, v in headers if n != b":scheme")


# What an `h2` client says

NAMES = st.sampled_from([b"x", b"user-agent", b"grpc-timeout", b"accept", b"x-long-name-of-a-header"])
VALUES = st.one_of(
    st.sampled_from([b"", b"1S", b"application/grpc", b"a; b=c"]),
    st.binary(min_size=1, max_size=30).map(lambda raw: raw.hex().encode()),
    st.sampled_from([b"\x80\xff", b"a b"]),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=5)


@attrs.frozen
class Step:
    """One thing that a client does; `stream` counts its open streams, around and around."""

    act: str
    stream: int = 0
    fields: tuple[tuple[bytes, bytes], ...] = ()
    data: bytes = b""
    pad: int | None = None
    end: bool = False
    #: Cut the header block at these sizes into CONTINUATION frames.
    cut: tuple[int, ...] = ()
    priority: bool = False


PADS = st.one_of(st.none(), st.integers(0, 255))
STEPS = st.one_of(
    st.builds(
        Step,
        act=st.just("open"),
        fields=FIELDS.map(tuple),
        end=st.booleans(),
        cut=st.lists(st.integers(0, 20), max_size=4).map(tuple),
        pad=PADS,
        priority=st.booleans(),
    ),
    st.builds(
        Step,
        act=st.just("data"),
        stream=st.integers(0, 5),
        data=st.binary(max_size=100),
        pad=PADS,
        end=st.booleans(),
    ),
    st.builds(Step, act=st.just("trailers"), stream=st.integers(0, 5), fields=FIELDS.filter(bool).map(tuple)),
    st.builds(Step, act=st.just("reset"), stream=st.integers(0, 5)),
    st.builds(Step, act=st.just("window"), stream=st.integers(-1, 5)),
    st.builds(Step, act=st.just("ping"), data=st.binary(min_size=8, max_size=8)),
    st.builds(Step, act=st.just("settings")),
    st.builds(Step, act=st.just("prioritise"), stream=st.integers(0, 5)),
    st.builds(Step, act=st.just("unknown")),
)


def said(steps: Sequence[Step]) -> bytes:
    """Return what an `h2` client sends that takes these steps."""
    client = H2Client()
    out = client.to_send()
    open_streams: list[int] = []
    for step in steps:
        stream = open_streams[step.stream % len(open_streams)] if open_streams and step.stream >= 0 else 0
        match step.act:
            case "open":
                weight = 7 if step.priority else None
                number = client.h2.get_next_available_stream_id()
                client.h2.send_headers(
                    number, head("/p?q", "POST", *step.fields), end_stream=step.end, priority_weight=weight
                )
                out += continued(client.to_send(), step)
                if not step.end:
                    open_streams.append(number)
            case "data" if stream:
                client.h2.send_data(stream, step.data, end_stream=step.end, pad_length=step.pad)
                if step.end:
                    open_streams.remove(stream)
            case "trailers" if stream:
                client.h2.send_headers(stream, list(step.fields), end_stream=True)
                open_streams.remove(stream)
            case "reset" if stream:
                client.h2.reset_stream(stream, H2ErrorCode.CANCEL)
                open_streams.remove(stream)
            case "window":
                client.h2.increment_flow_control_window(1000, stream or None)
            case "ping":
                client.h2.ping(step.data)
            case "settings":
                client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100_000})
            case "prioritise" if stream:
                client.h2.prioritize(stream, weight=3, depends_on=0)
            case "unknown":
                out += frame(0x55, 0xFF, stream, b"grease")
        out += client.to_send()
    return out


def continued(data: bytes, step: Step) -> bytes:
    """Pad a HEADERS frame and cut its block into CONTINUATION frames."""
    [(kind, flags, stream, payload)] = list(frames(data))
    assert kind == HEADERS
    priority, block = (payload[:5], payload[5:]) if flags & 0x20 else (b"", payload)
    parts = []
    for size in step.cut:
        parts.append(block[:size])
        block = block[size:]
    parts.append(block)
    first = priority + parts[0]
    if step.pad is not None and parts[0]:  # hyperframe takes no frame of nothing but padding
        flags |= 8
        first = bytes([step.pad]) + first + bytes(step.pad)
    if len(parts) > 1:
        flags &= ~4
    out = frame(HEADERS, flags, stream, first)
    for number, part in enumerate(parts[1:], 2):
        out += frame(CONTINUATION, 4 if number == len(parts) else 0, stream, part)
    return out


@settings(max_examples=examples(400))
@given(st.lists(STEPS, max_size=15), CHUNKINGS)
def test_what_an_h2_client_says_means_the_same(steps: list[Step], sizes: list[int]) -> None:
    data = said(steps)
    expected = theirs([data])
    seen, sent = ours(pieces(data, sizes))
    assert not seen.refused
    assert not expected.refused
    assert seen == expected
    # And every ping and setting is acknowledged.
    kinds = [(kind, flags) for kind, flags, _, _ in frames(sent)]
    assert kinds.count((6, 1)) == len(expected.pings)
    assert kinds.count((SETTINGS, 1)) == 1 + sum(step.act == "settings" for step in steps)


BLOCKS = {
    "te: trailers": head("/", "POST", (b"te", b"trailers")),
    "a tab in a value": head("/", "POST", (b"x", b"a\tb")),
    "no authority": [f for f in head() if f[0] != b":authority"],
    "host in place of authority": [*(f for f in head() if f[0] != b":authority"), (b"host", b"other")],
    "host beside authority, the same": head("/", "POST", (b"host", b"h")),
    "host beside authority, another": head("/", "POST", (b"host", b"other")),
    "te: gzip": head("/", "POST", (b"te", b"gzip")),
    "connection": head("/", "POST", (b"connection", b"close")),
    "upper case": head("/", "POST", (b"X", b"y")),
    "pseudo-header last": [*head("/", "POST", (b"x", b"y")), (b":scheme", b"http")],
    "two methods": [(b":method", b"GET"), *head()],
    "unknown pseudo-header": [(b":what", b"x"), *head()],
    "no method": head()[1:],
    "no path": head()[:-1],
    "empty path": head(""),
    "line break in a value": head("/", "POST", (b"x", b"a\nb")),
    "NUL in a value": head("/", "POST", (b"x", b"a\0b")),
    "space before a value": head("/", "POST", (b"x", b" y")),
    "space after a value": head("/", "POST", (b"x", b"y ")),
    "empty name": head("/", "POST", (b"", b"y")),
    "colon in a name": head("/", "POST", (b"a:b", b"y")),
    "a length that is no number": head("/", "POST", (b"content-length", b"x")),
    "two lengths": head("/", "POST", (b"content-length", b"3"), (b"content-length", b"4")),
    "CONNECT": [(b":method", b"CONNECT"), (b":authority", b"h")],
    "extended CONNECT": [*head("/chat", "CONNECT"), (b":protocol", b"websocket")],
}
#: Where we and `h2` differ, and why that is right.
DIFFERENCES = {
    "CONNECT": "stricter: fawa is no proxy",
    "no authority": "laxer: RFC 9113 section 8.3.1 leaves it out where there is none to tell",
}


@pytest.mark.parametrize("name", BLOCKS)
def test_heads_are_taken_or_refused_alike(name: str) -> None:
    client = H2Client()
    stream = client.open(BLOCKS[name], end=True)
    data = client.to_send()
    seen, sent = ours([data])
    expected = theirs([data])
    taken = bool(seen.streams[stream].request)
    assert taken == (seen.streams[stream].reset is None)
    assert (stream in [number for kind, _, number, _ in frames(sent) if kind == 3]) != taken
    other_takes = stream in expected.streams and not expected.refused
    assert (taken != other_takes) == (name in DIFFERENCES)
    if taken and other_takes:
        told = {field for field in expected.streams[stream].request if field[0] != b":protocol"}
        assert set(seen.streams[stream].request) == told


def test_crumbs_of_cookies_stay_apart() -> None:
    """`h2` puts them together; whoever wants cookies here may do so (RFC 9113 section 8.2.3)."""
    client = H2Client()
    stream = client.open(head("/", "POST", (b"cookie", b"a=b"), (b"cookie", b"c=d")), end=True)
    seen, _ = ours([client.to_send()])
    assert [value for name, value in seen[stream].request if name == b"cookie"] == [b"a=b", b"c=d"]


@settings(max_examples=examples(300))
@given(
    st.lists(STEPS, min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 1000), st.binary(max_size=3)), min_size=1, max_size=3),
    CHUNKINGS,
)
def test_damaged_frames_are_never_taken_for_more_than_h2_takes(
    steps: list[Step], edits: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    """Where both understand a stream, they understand the same; how bytes arrive does not matter."""
    data = bytearray(said(steps))
    for where, splice in edits:
        at = len(PREFACE) + (len(data) - len(PREFACE)) * where // 1001
        data[at : at + len(splice)] = splice
    seen, _ = ours([bytes(data)])
    chunked, _ = ours(pieces(bytes(data), sizes))
    assert chunked.refused == seen.refused
    expected = theirs([bytes(data[i : i + 1]) for i in range(len(data))])
    if not (seen.refused or expected.refused):
        assert chunked == seen
    for stream_id, stream in chunked.streams.items():
        other = expected.streams.get(stream_id)
        if other is not None and stream.request and other.request:
            assert stream.request == other.request
            shorter = min(len(stream.body), len(other.body))
            assert stream.body[:shorter] == other.body[:shorter]


# What we say


@settings(max_examples=examples(150))
@given(
    answers=st.lists(
        st.tuples(
            st.sampled_from([200, 404, 503]),
            FIELDS,
            st.lists(st.binary(max_size=30_000), max_size=4),
            st.lists(st.tuples(NAMES, VALUES.filter(bool)), max_size=2),
        ),
        min_size=1,
        max_size=5,
    ),
    window=st.sampled_from([1, 100, 65_535, 1_000_000]),
    sizes=st.lists(st.integers(1, 5000), max_size=5),
)
def test_h2_understands_what_we_say(
    answers: list[tuple[int, Headers, list[bytes], Headers]], window: int, sizes: list[int]
) -> None:
    engine, client = server(), H2Client(window=window)
    streams = [client.open(head(), end=True) for _ in answers]
    engine.receive(client.to_send())
    for number, (status, fields, body, trailers) in zip(streams, answers, strict=True):
        stream = engine.stream(number)
        stream.send_response(status, fields, end_stream=not body and not trailers)
        for piece in body:
            engine.send_data(stream, piece)
        if body or trailers:
            engine.end_message(stream, trailers)
    for number in streams:
        if client.h2.local_flow_control_window(number) and window < 1000:
            client.h2.increment_flow_control_window(200_000, number)
    while sent := engine.take():
        for piece in pieces(sent, sizes):
            client.receive(piece)
        engine.receive(client.to_send() or frame(SETTINGS, 0, 0))
        if all(client[number].ended for number in streams):
            break
    for number, (status, fields, body, trailers) in zip(streams, answers, strict=True):
        answer = client[number]
        assert (answer.status, bytes(answer.body), answer.ended) == (status, b"".join(body), True)
        assert answer.headers == fields
        assert answer.trailers == trailers
        assert not engine.pending(number)


# The engine's own


def consume(engine: H2Engine, client: H2Client) -> None:
    client.receive(engine.take())


def test_window_is_given_back_only_by_release() -> None:
    engine, client = server(), H2Client()
    stream = client.open()
    engine.receive(client.to_send())
    consume(engine, client)
    room: Callable[[], int] = lambda: client.h2.local_flow_control_window(stream)  # noqa: E731
    assert not engine.holds_windows
    assert engine.release(stream) is engine.release(0) is False
    while room():
        client.h2.send_data(stream, bytes(min(room(), 16_384)))
    engine.receive(client.to_send())
    consume(engine, client)
    assert room() == 0
    assert engine.held_streams == [stream]
    assert engine.release(stream)
    consume(engine, client)
    assert 2**20 - 32_768 <= room() <= 2**20  # widened on the way
    assert engine.release(0, keep=10_000)
    assert not engine.release(0, keep=10_000)
    assert engine.held_streams == []
    assert engine.release(0)
    client.h2.send_data(stream, bytes(16_000))
    client.h2.send_data(stream, bytes(16_000))
    client.h2.send_data(stream, bytes(16_000))
    engine.receive(client.to_send())
    engine.forget(stream)
    assert engine.held_streams == []


def test_an_engine_without_wider_windows_says_nothing_of_them() -> None:
    engine = H2Engine(Role.SERVER, stream_window=65_535, connection_window=65_535)
    assert [kind for kind, _, _, _ in frames(engine.take())] == [SETTINGS]


def test_goaway_and_ping_stand_in_their_order() -> None:
    engine, client = server(), H2Client()
    stream = client.open(head(), end=True)
    engine.receive(client.to_send())
    engine.take()
    engine.stream(stream).send_response(200, [], end_stream=True)
    engine.goaway(2**31 - 1)
    engine.ping(b"12345678")
    engine.goaway(1)
    kinds = [kind for kind, _, _, _ in frames(engine.take())]
    assert kinds == [HEADERS, 7, 6, 7]


def test_events_of_a_broken_connection_do_not_hide_what_has_to_be_said() -> None:
    engine = server()
    with pytest.raises(HttpError):
        engine.receive(PREFACE + frame(0, 0, 0, b"x"))
    assert [kind for kind, _, _, _ in frames(engine.take())][-1] == 7


def test_the_end_of_input_is_no_event() -> None:
    assert server().receive(b"") == []
