"""Large content past the parser: an `h2` client must not notice, whatever its windows do."""

from __future__ import annotations

import struct

import h2.settings
import pytest
import zttp
from hypothesis import given, settings
from hypothesis import strategies as st

from fawa.net.connection import Limits
from fawa.net.engine import (
    Bulk,
    Credit,
    Data,
    EndOfMessage,
    H2Engine,
    H2ErrorCode,
    HttpError,
    Role,
    RstStream,
)
from fawa.net.exchange import Exchange
from fawa.net.http2 import H2Connection
from tests.net.talk import (
    DATA,
    RST_STREAM,
    SETTINGS,
    H2Client,
    examples,
    frame,
    frames,
    head,
    line,
    pieces,
)

MAX_WINDOW = 2**31 - 1
INITIAL_WINDOW_SIZE = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE


def server() -> H2Engine:
    return H2Engine(Role.SERVER, stream_window=2**20, connection_window=2**23)


def opened(client: H2Client, engine: H2Engine, count: int = 1) -> list[int]:
    """Return streams on which the response head has been sent."""
    streams = [client.open(head(), end=True) for _ in range(count)]
    carry(client, engine)  # `h2` takes the acknowledgement of its first SETTINGS for that of any later one
    for stream in streams:
        engine.stream(stream).send_response(200, [])
    return streams


def carry(client: H2Client, engine: H2Engine) -> None:
    """Carry bytes both ways until both are quiet."""
    while True:
        said = client.to_send()
        if said:
            engine.receive(said)
        sent = engine.take()
        client.receive(sent)
        if not said and not sent:
            return


# From us to the peer


@settings(max_examples=examples(50))
@given(data=st.data(), window=st.sampled_from([0, 1, 5_000, 65_535, 300_000]), consumes=st.booleans())
def test_the_peers_windows_are_kept_and_everything_arrives(
    data: st.DataObject, window: int, consumes: bool
) -> None:
    """`h2` raises when a window is overrun; small and large pieces, several streams, windows that shrink."""
    engine, client = server(), H2Client(window=window, consumes=consumes)
    streams = opened(client, engine, 3)
    said = dict.fromkeys(streams, b"")
    ended: set[int] = set()
    granted = 0
    for step in range(data.draw(st.integers(1, 15), "steps")):
        stream = data.draw(st.sampled_from(streams), "stream")
        match data.draw(st.sampled_from(["say", "say", "grant", "settings", "end", "carry"]), "what"):
            case "say" if stream not in ended:
                size = data.draw(st.sampled_from([1, 4096, 4097, 16_384, 40_000]), "size")
                said[stream] += bytes([step + 1]) * size
                engine.send_data(engine.stream(stream), said[stream][-size:])
            case "grant" if granted < 10_000_000 and not client[stream].ended:
                size = data.draw(st.sampled_from([1, 100, 20_000, 500_000]), "grant")
                granted += size
                client.h2.increment_flow_control_window(size, stream)
            case "settings":
                value = data.draw(st.sampled_from([0, 10, 70_000]), "initial window")
                client.h2.update_settings({INITIAL_WINDOW_SIZE: value})
            case "end" if stream not in ended:
                ended.add(stream)
                engine.end_message(engine.stream(stream), [(b"x-end", b"%d" % stream)])
            case "carry":
                carry(client, engine)
    carry(client, engine)
    for stream in streams:
        assert said[stream].startswith(bytes(client[stream].body))
        assert len(client[stream].body) + engine.pending(stream) == len(said[stream])
        if engine.pending(stream):
            assert not client[stream].ended
            assert client.h2.remote_flow_control_window(stream) <= 0 or not consumes
        if stream not in ended:
            engine.end_message(engine.stream(stream), [])
    client.h2.increment_flow_control_window(5_000_000)
    for stream in streams:
        if not client[stream].ended:
            client.h2.increment_flow_control_window(1_000_000, stream)
    carry(client, engine)
    for stream in streams:
        assert bytes(client[stream].body) == said[stream]
        assert client[stream].ended
        assert client[stream].trailers == ([(b"x-end", b"%d" % stream)] if stream in ended else [])
    assert not engine.waiting


def test_streams_take_turns_where_the_connections_window_is_short() -> None:
    engine, client = server(), H2Client(window=1_000_000, consumes=False)
    first, second = opened(client, engine, 2)
    for stream in (first, second):
        engine.send_data(engine.stream(stream), bytes(900_000))
    # All but 10,000 octets of the connection's window are lost to something else.
    engine._sieve.spent[0] = engine._conn.send_window - 10_000
    client.receive(engine.take())
    engine.receive(client.to_send())
    assert [len(client[stream].body) for stream in (first, second)] == [10_000, 0]
    client.h2.increment_flow_control_window(10_000)
    engine.receive(client.to_send())
    client.receive(engine.take())
    assert [len(client[stream].body) for stream in (first, second)] == [10_000, 10_000]


def test_window_that_is_given_back_in_full_is_not_too_much() -> None:
    """The parser has not seen it spent, and would call it an overflow (RFC 9113 section 6.9.1)."""
    engine, client = server(), H2Client(window=MAX_WINDOW)
    [stream] = opened(client, engine)
    client.h2.increment_flow_control_window(MAX_WINDOW - 2**30 - 65_535)
    carry(client, engine)
    for _ in range(5):
        engine.send_data(engine.stream(stream), bytes(1_000_000))
        carry(client, engine)
    assert len(client[stream].body) == 5_000_000
    with pytest.raises(HttpError):
        engine.receive(b"\0\0\4\x08\0\0\0\0\0\x7f\xff\xff\xff")


def test_a_reset_drops_what_waits() -> None:
    engine, client = server(), H2Client(window=10, consumes=False)
    ours, theirs = opened(client, engine, 2)
    for stream in (ours, theirs):
        engine.send_data(engine.stream(stream), bytes(100_000))
        engine.end_message(engine.stream(stream), [])
    carry(client, engine)
    engine.reset(engine.stream(ours), H2ErrorCode.CANCEL)
    client.h2.reset_stream(theirs)
    events = engine.receive(client.to_send())
    assert [event.stream_id for event in events if isinstance(event, RstStream)] == [theirs]
    assert engine.pending(ours) == engine.pending(theirs) == 0
    assert [(kind, stream) for kind, _, stream, _ in frames(engine.take())] == [(RST_STREAM, ours)]


def test_trailers_that_cannot_be_sent_end_their_stream_and_no_more() -> None:
    engine, client = server(), H2Client()
    bad, good = opened(client, engine, 2)
    for stream, name in ((bad, b"No Name"), (good, b"a-name")):
        engine.send_data(engine.stream(stream), bytes(5000))
        engine.end_message(engine.stream(stream), [(name, b"")])
    carry(client, engine)
    assert (client[bad].reset, client[bad].ended) == (H2ErrorCode.INTERNAL_ERROR, False)
    assert (client[good].trailers, client[good].ended) == ([(b"a-name", b"")], True)


def test_no_data_is_nothing_to_wait_with() -> None:
    engine, client = server(), H2Client(window=1000, consumes=False)
    [stream] = opened(client, engine)
    engine.send_data(engine.stream(stream), bytes(1000))
    # A window may shrink below nothing (RFC 9113 section 6.9.2), which `h2` does not do to itself.
    engine.receive(frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 10)))
    engine.take()
    engine.send_data(engine.stream(stream), b"")
    engine.end_message(engine.stream(stream), [])
    assert [(kind, flags) for kind, flags, _, _ in frames(engine.take())] == [(DATA, 1)]


def test_a_stream_that_is_over_takes_no_data() -> None:
    engine, client = server(), H2Client()
    [stream] = opened(client, engine)
    client.h2.reset_stream(stream)
    engine.receive(client.to_send())
    with pytest.raises(zttp.LocalProtocolError):
        engine.send_data(engine.stream(stream), bytes(100_000))
    assert engine.pending(stream) == 0


# From the peer to us


@settings(max_examples=examples(100))
@given(
    sent=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 9000), st.sampled_from([None, None, None, 7])), max_size=8
    ),
    sizes=st.lists(st.integers(1, 5000), max_size=5),
)
def test_bulk_streams_say_the_same(sent: list[tuple[int, int, int | None]], sizes: list[int]) -> None:
    engine, client = server(), H2Client()
    streams = [client.open(head()), client.open(head())]
    engine.receive(client.to_send())
    engine.expect_bulk(streams[0])
    said = dict.fromkeys(streams, b"")
    order = []
    for number, (which, size, pad) in enumerate(sent):
        stream = streams[which]
        if client.h2.local_flow_control_window(stream) < size + 300:
            continue
        piece = bytes([number]) * size
        said[stream] += piece
        client.h2.send_data(stream, piece, pad_length=pad)
        if piece:
            order.append((stream, number))
    for stream in streams:
        client.h2.end_stream(stream)
    heard = dict.fromkeys(streams, b"")
    ends: list[int] = []
    heard_order: list[tuple[int, int]] = []
    for piece in pieces(client.to_send(), sizes):
        for event in engine.receive(piece):
            match event:
                case Data() | Bulk():
                    assert event.stream_id not in ends
                    heard[event.stream_id] += event.data
                    heard_order += [(event.stream_id, number) for number in dict.fromkeys(event.data)]
                case EndOfMessage():
                    ends.append(event.stream_id)
    assert heard == said
    assert ends == streams
    assert list(dict.fromkeys(heard_order)) == order


def test_what_bulk_uses_up_is_held_and_given_back() -> None:
    engine, client = server(), H2Client()
    stream = client.open(head())
    engine.receive(client.to_send())
    client.receive(engine.take())
    engine.expect_bulk(stream)
    room, room_of_all = client.h2.local_flow_control_window(stream), client.h2.outbound_flow_control_window
    for _ in range(3):
        client.h2.send_data(stream, bytes(16_000))
    [event] = engine.receive(client.to_send())
    assert isinstance(event, Bulk)
    assert len(event.data) == 48_000
    assert engine.held_streams == [stream]
    engine.release(stream)
    engine.release(0)
    client.receive(engine.take())
    assert client.h2.local_flow_control_window(stream) == room + 2**20 - 65_535  # and widened
    assert client.h2.outbound_flow_control_window == room_of_all


def test_credit_is_an_event() -> None:
    engine, client = server(), H2Client(window=100_000, consumes=False)
    [stream] = opened(client, engine)
    engine.send_data(engine.stream(stream), bytes(50_000))
    client.receive(engine.take())
    client.h2.increment_flow_control_window(20_000)
    client.h2.increment_flow_control_window(20_000, stream)
    events = [event for event in engine.receive(client.to_send()) if isinstance(event, Credit)]
    assert events == [Credit(0, 20_000), Credit(stream, 20_000)]


@pytest.mark.parametrize(
    ("said", "is_right"), [(None, True), (400_000, True), (399_999, False), (400_001, False)]
)
async def test_a_body_of_declared_length_is_counted(said: int | None, is_right: bool) -> None:
    """So it goes through the parser, and others go past it (RFC 9113 section 8.1.1)."""
    bulk: list[bool] = []

    async def count(exchange: Exchange) -> None:
        while await exchange.receive():
            bulk.append(bool(talk.h2.engine._sieve.bulk))
        exchange.respond(200, [], b"%d" % exchange.bytes_in)

    async with line(H2Connection, count, limits=Limits()) as talk:
        client = H2Client()
        fields = [] if said is None else [(b"content-length", b"%d" % said)]
        stream = client.open(head("/", "POST", *fields))
        for _ in range(40):
            client.h2.send_data(stream, bytes(10_000))
            await client.turn(talk)
        client.h2.end_stream(stream)
        await client.turn(talk)
        assert any(bulk) == (said is None)
        if is_right:
            assert bytes(client[stream].body) == b"400000"
        else:
            assert client[stream].reset == H2ErrorCode.PROTOCOL_ERROR
