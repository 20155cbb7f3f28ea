"""Boards over WebTransport with aioquic's own asyncio client, as its examples use it."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, FrameType, H3Connection
from aioquic.h3.events import DatagramReceived, DataReceived, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent

from tests.daemon import PATIENCE, Daemon, running
from tests.interop.target import Target
from tests.interop.whiteboard import collaborator, new_board, person, xs

Document = dict[str, Any]


class Browser(QuicConnectionProtocol):
    """A client with one session, in the manner of aioquic's examples."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.h3: H3Connection | None = None
        self.session = -1
        self.status = 0
        self.protocol = b""
        self.ended = False
        self.streams: defaultdict[int, bytes] = defaultdict(bytes)
        #: Streams of the server's own that are whole.
        self.whole: list[int] = []
        self.datagrams: list[bytes] = []
        self.news = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        if self.h3 is None:
            self.h3 = H3Connection(self._quic, enable_webtransport=True)
        for heard in self.h3.handle_event(event):
            match heard:
                case HeadersReceived(headers=headers):
                    fields = dict(headers)
                    self.status = int(fields[b":status"])
                    self.protocol = fields.get(b"wt-protocol", b"")
                case DataReceived(stream_ended=ended):
                    self.ended |= ended
                case WebTransportStreamDataReceived(stream_id=number, data=data, stream_ended=ended):
                    self.streams[number] += data
                    if ended and number % 4 == 3:
                        self.whole.append(number)
                case DatagramReceived(data=data):
                    self.datagrams.append(data)
        self.news.set()

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self.news.clear()
                await self.news.wait()

    async def enter(self, authority: str, code: str, *, v2: bool = False) -> None:
        """Ask for a session on a board."""
        await self.until(lambda: self.h3 is not None)
        assert self.h3 is not None
        self.session = self._quic.get_next_available_stream_id()
        more = [(b"wt-available-protocols", b'"fawa.v2"')] if v2 else []
        self.h3.send_headers(
            self.session,
            [
                (b":method", b"CONNECT"),
                (b":scheme", b"https"),
                (b":authority", authority.encode()),
                (b":path", f"/webtransport/canva?code={code}".encode()),
                (b":protocol", b"webtransport"),
                *more,
            ],
        )
        self.transmit()
        await self.until(lambda: self.status)

    def open(self, data: bytes, *, end: bool) -> int:
        assert self.h3 is not None
        number = self.h3.create_webtransport_stream(self.session)
        # aioquic takes what comes back on its own streams for HTTP/3 frames.
        with self.h3._get_or_create_stream(number) as stream:
            stream.frame_type, stream.session_id = FrameType.WEBTRANSPORT_STREAM, self.session
        self.say(number, data, end=end)
        return number

    def say(self, number: int, data: bytes, *, end: bool = False) -> None:
        self._quic.send_stream_data(number, data, end_stream=end)
        self.transmit()

    def datagram(self, data: bytes) -> None:
        assert self.h3 is not None
        self.h3.send_datagram(self.session, data)
        self.transmit()

    def v1_documents(self) -> list[Document]:
        """Return what came on streams of their own, in the order of the streams."""
        return [json.loads(self.streams[number]) for number in sorted(self.whole)]

    def v2_documents(self, number: int) -> list[Document]:
        whole, _, _ = self.streams[number].rpartition(b"\n")
        return [json.loads(one) for one in whole.splitlines()]


def visit(daemon: Daemon, act: Callable[[Browser], Awaitable[None]]) -> None:
    """Connect with HTTP/3, and do something."""
    host, _, port = daemon.tls.rpartition(":")
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN,
        server_name="localhost",
        cafile=str(daemon.certificate),
        verify_mode=ssl.CERT_REQUIRED,
        max_datagram_frame_size=65536,
    )

    async def run() -> None:
        async with connect(host, int(port), configuration=configuration, create_protocol=Browser) as client:
            await act(cast("Browser", client))

    asyncio.run(run())


def draw(x: int) -> bytes:
    return json.dumps({"draw_event": {"type": "draw", "curr_x": x}}).encode()


def test_v1_meets_everybody(daemon: Daemon, canva: Any, canva_grpc: Any) -> None:
    target = Target(daemon.plain, None)
    code = new_board(target)
    with person(target, code) as ann, collaborator(target, canva, canva_grpc, code) as cleo:
        assert cleo.hear_history() == []

        async def act(bob: Browser) -> None:
            await bob.enter(daemon.tls, code)
            assert (bob.status, bob.protocol) == (200, b"")
            bob.open(draw(1), end=True)
            await bob.until(lambda: len(bob.whole) == 1)
            await asyncio.to_thread(ann.hear_xs, 1)
            ann.draw(2)
            await bob.until(lambda: len(bob.whole) == 2)
            cleo.draw(3)
            await bob.until(lambda: len(bob.whole) == 3)
            bob.open(draw(4) + draw(5), end=True)
            await bob.until(lambda: len(bob.whole) == 5)
            assert xs(bob.v1_documents()) == [1, 2, 3, 4, 5]

        visit(daemon, act)
        ann.hear_xs(1, 2, 3, 4, 5)
        cleo.hear_xs(1, 2, 3, 4, 5)

    async def late(dan: Browser) -> None:
        await dan.enter(daemon.tls, code)
        await dan.until(lambda: dan.whole)
        [history] = dan.v1_documents()
        assert xs([history]) == [1, 2, 3, 4, 5]

    visit(daemon, late)


def test_v2_draws_moves_and_resumes(daemon: Daemon) -> None:
    target = Target(daemon.plain, None)
    code = new_board(target)
    hellos: list[Document] = []
    with person(target, code, v2=True, name="Ann") as ann:

        async def act(bob: Browser) -> None:
            await bob.enter(daemon.tls, code, v2=True)
            assert (bob.status, bob.protocol) == (200, b'"fawa.v2"')
            stream = bob.open(b'{"hello":{"name":"Bob"}}\n', end=False)
            await bob.until(lambda: bob.v2_documents(stream))
            hellos.append(bob.v2_documents(stream)[0]["hello"])
            bob.say(stream, b'{"draw":{"op":1,"events":[{"type":"draw","curr_x":1}]}}\n')
            await asyncio.to_thread(ann.hear_until, lambda heard: 1 in xs(heard))
            ann.draw_v2(1, 2)
            await bob.until(lambda: xs(bob.v2_documents(stream)) == [1, 2])
            bob.datagram(b'{"cursor":{"x":5,"y":6}}')
            await asyncio.to_thread(ann.hear_until, lambda heard: any("cursors" in one for one in heard))
            await bob.until(lambda: bob.datagrams)
            assert json.loads(bob.datagrams[0])["cursors"][0]["x"] == 5

        visit(daemon, act)
        ann.draw_v2(2, 3, 4)
        ann.hear_until(lambda heard: 4 in xs(heard))

        async def again(bob: Browser) -> None:
            await bob.enter(daemon.tls, code, v2=True)
            resume = {key: hellos[0][key] for key in ("client_id", "token", "epoch")} | {"seq": 2}
            stream = bob.open(json.dumps({"hello": {"resume": resume}}).encode() + b"\n", end=False)
            await bob.until(lambda: xs(bob.v2_documents(stream)) == [3, 4])
            hello = bob.v2_documents(stream)[0]["hello"]
            assert (hello["recovered"], hello["client_id"], hello["op"]) == (True, hellos[0]["client_id"], 1)

        visit(daemon, again)


@pytest.mark.parametrize(("query", "status"), [("AAAAAA", 404), ("", 400)])
def test_no_such_board(daemon: Daemon, query: str, status: int) -> None:
    async def act(bob: Browser) -> None:
        await bob.enter(daemon.tls, query)
        assert bob.status == status

    visit(daemon, act)


def test_a_drain_tells_and_ends_the_session(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("data")) as daemon:
        code = new_board(Target(daemon.plain, None))

        async def act(bob: Browser) -> None:
            await bob.enter(daemon.tls, code, v2=True)
            stream = bob.open(b'{"hello":{}}\n', end=False)
            await bob.until(lambda: bob.v2_documents(stream))
            stopper = threading.Thread(target=daemon.stop)
            stopper.start()
            await bob.until(lambda: bob.ended)
            await asyncio.to_thread(stopper.join)
            [drain] = [one for one in bob.v2_documents(stream) if "drain" in one]
            assert drain["drain"]["retry_after_ms"] >= 500

        visit(daemon, act)
