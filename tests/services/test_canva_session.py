"""Clients at WebTransport sessions, in wire v1 and v2: conversations and every way they end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from fawa.board.board import BoardLimits
from fawa.board.tape import Batch
from fawa.board.wire import Wire, line
from fawa.board.wire_v2 import WireV2
from fawa.net import tls
from fawa.net.capsules import Close, to_http_code
from fawa.rooms.rooms import RoomsSettings
from fawa.services.canva import CanvaSettings
from fawa.services.canva_client import SocketSettings
from tests.net.quic_talk import Client, There, Weather, certificate, listening
from tests.net.webtransport_talk import Page, ask_for
from tests.services.boards import AT_ONCE, Site, site

V2 = [(b"wt-available-protocols", b'"fawa.v2"')]
STORMY = Weather(loss=0.05, reorder=0.1, duplicate=0.05)


def event(x: int, **fields: Any) -> dict[str, Any]:
    return {"type": "draw", "curr_x": x, **fields}


def draw(*xs: int) -> bytes:
    return b"".join(json.dumps({"draw_event": event(x)}).encode() for x in xs)


def xs(documents: list[dict[str, Any]]) -> list[int]:
    events = [document.get("draw_event") or document.get("event") for document in documents]
    return [one["curr_x"] for one in events if one]


@attrs.define(eq=False)
class Drawer:
    """Somebody at a session."""

    page: Page
    #: The stream of wire v2.
    stream: int = -1
    #: How many of the streams from the server, or how much of that one, has been heard.
    _heard: int = 0

    @property
    def client(self) -> Client:
        return self.page.client

    async def __call__(self, *documents: Any) -> None:
        """Say documents in wire v2."""
        self.client.send_raw(self.stream, b"".join(json.dumps(one).encode() + b"\n" for one in documents))

    def fresh(self) -> list[dict[str, Any]]:
        """Return what has come since it was last asked for."""
        if self.stream < 0:
            streams = self.page.pushed()
            new = [bytes(self.client[one].body) for one in streams[self._heard :]]
            self._heard = len(streams)
            return [json.loads(one) for one in new]
        body = bytes(self.client[self.stream].body)
        whole = body.rfind(b"\n") + 1
        new = body[self._heard : whole].splitlines()
        self._heard = whole
        return [json.loads(one) for one in new]

    async def hear(self, count: int) -> list[dict[str, Any]]:
        """Return the next documents once there are so many."""
        found: list[dict[str, Any]] = []
        with trio.fail_after(60):
            while len(found) < count:
                if self.stream < 0:
                    await self.client.until(
                        lambda: (
                            all(self.client[one].ended for one in self.page.pushed())
                            and len(self.page.pushed()) > self._heard
                        )
                    )
                found += self.fresh()
                if len(found) < count:
                    await trio.sleep(0.01)
        return found

    async def hear_xs(self, count: int) -> list[int]:
        found: list[int] = []
        while len(found) < count:
            found += xs(await self.hear(1))
        return found

    async def farewell(self) -> Close:
        """Return with what the server closes the session."""
        with trio.fail_after(120):
            await self.client.until(lambda: self.page.answer.ended)
        [close] = [one for one in self.page.capsules if isinstance(one, Close)]
        return close


class Ghost:
    """Somebody who takes everything at once."""

    wire: Wire = WireV2(line)
    is_flushed = True

    def push(self, batch: Batch) -> bool:
        return True

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(reason)


@attrs.define
class Venue:
    """Boards, and a listener in front of them on a network in memory."""

    here: Site
    there: There

    async def enter(self, code: str) -> Drawer:
        """Join in wire v1."""
        client = await self.there.connect(sessions=True)
        page = ask_for(client, path=f"/webtransport/canva?code={code}")
        await client.until(lambda: page.answer.head)
        assert page.answer.status == 200
        return Drawer(page)

    async def enter_v2(self, code: str, **hello: Any) -> tuple[Drawer, dict[str, Any]]:
        """Join in wire v2; return the server's hello too."""
        drawer = await self.knock(code)
        await drawer({"hello": hello})
        await drawer.client.until(lambda: b"\n" in drawer.client[drawer.stream].body)
        first, _, _ = bytes(drawer.client[drawer.stream].body).partition(b"\n")
        drawer._heard = len(first) + 1
        return drawer, json.loads(first)["hello"]

    async def knock(self, code: str) -> Drawer:
        """Open a session for wire v2 and its stream, and say nothing."""
        client = await self.there.connect(sessions=True)
        page = ask_for(client, V2, f"/webtransport/canva?code={code}")
        await client.until(lambda: page.answer.head)
        assert page.answer.head[b"wt-protocol"] == b'"fawa.v2"'
        return Drawer(page, page.open())


async def until_answered(page: Page) -> None:
    await page.client.until(lambda: page.answer.head)


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> tls.Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def no_faults(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a client does, it is no fault of the server's."""
    yield
    faults = [record.exc_text or record.message for record in caplog.get_records("call")]
    assert not [text for text in faults if "failed" in text or "Traceback" in text]


@asynccontextmanager
async def venue(
    cert: tls.Certificate,
    *,
    rooms: RoomsSettings = AT_ONCE,
    canva: CanvaSettings | None = None,
    weather: Weather | None = None,
) -> AsyncIterator[Venue]:
    async with site(rooms, canva=canva) as here, listening(cert, here.handle, weather=weather) as there:
        yield Venue(here, there)


async def test_v1(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with venue(cert) as place:
        code = await place.here.code()
        ann, bob = await place.enter(code), await place.enter(code.lower())
        ann.page.open(draw(1), end=True)
        [told] = await bob.hear(1)
        assert told["draw_event"]["curr_x"] == 1
        assert len(told["draw_event"]["client_id"]) == 8
        assert await ann.hear(1) == [told]
        ann.page.open(draw(2, 3) + b"\n " + draw(4), end=True)
        ann.page.open(draw(5), uni=True, end=True)
        assert sorted(await bob.hear_xs(4)) == [2, 3, 4, 5]
        late = await place.enter(code)
        [history] = await late.hear(1)
        assert sorted(one["curr_x"] for one in history["initial_history"]["events"]) == [1, 2, 3, 4, 5]


async def test_v1_many_messages_each_on_a_stream_of_its_own(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async with venue(cert) as place:
        code = await place.here.code()
        ann, bob = await place.enter(code), await place.enter(code)
        for x in range(300):
            ann.page.open(draw(x), end=True)
        assert sorted(await bob.hear_xs(300)) == list(range(300))


async def test_v2(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with venue(cert) as place:
        code = await place.here.code()
        ann, hello = await place.enter_v2(code, name="Ann", color="teal")
        assert (hello["code"], hello["seq"], hello["op"], hello["recovered"]) == (code, 0, 0, False)
        assert hello["limits"] == {"message": 65536, "events": 256, "rate": 1000, "ping": 25}
        snapshot, presence = await ann.hear(2)
        assert snapshot == {"snapshot": {"seq": 0, "first": True, "last": True, "strokes": []}}
        assert [one["name"] for one in presence["presence"]["here"]] == ["Ann"]
        await ann({"draw": {"op": 1, "events": [event(1), event(2)]}})
        assert [(one["event"]["seq"], one["event"]["op"]) for one in await ann.hear(2)] == [(1, 1), (2, 2)]
        await ann({"draw": {"op": 2, "events": [event(2)]}}, {"ping": 17})
        assert await ann.hear(2) == [{"ack": {"op": 2}}, {"pong": 17}]
        await ann({"nonsense": 1})
        [wrong] = await ann.hear(1)
        assert wrong["error"]["code"] == "unknown_message"


async def test_v2_byte_by_byte(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with venue(cert) as place:
        ann = await place.knock(await place.here.code())
        text = '{"hello":{"name":"Zo\u00eb \U0001f600"}}\n\n{"draw":{"op":1,"events":[{"type":"draw"}]}}\n'
        for octet in text.encode():
            ann.client.send_raw(ann.stream, bytes([octet]))
        heard = await ann.hear(4)
        assert [next(iter(one)) for one in heard[:2]] == ["hello", "snapshot"]
        [people] = [one["presence"]["here"] for one in heard if "presence" in one]
        assert people[0]["name"] == "Zo\u00eb \U0001f600"
        assert any("event" in one for one in heard)


async def test_cursors_are_datagrams_both_ways(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with venue(cert) as place:
        code = await place.here.code()
        ann, _ = await place.enter_v2(code)
        bob, _ = await place.enter_v2(code)
        ann.page.datagram(b'{"cursor":{"x":7,"y":8}}')
        await bob.client.until(lambda: bob.client.datagrams)
        [cursor] = json.loads(bob.client.datagrams[0])["cursors"]
        assert (cursor["x"], cursor["y"]) == (7, 8)
        await ann({"cursor": {"x": 9, "y": 9}})
        await bob.client.until(lambda: len(bob.client.datagrams) > 1)
        for nonsense in (b"", b"\x00", b"{", b'{"cursor":1}', b'{"draw":{}}', b'{"cursor":' + b" " * 1000):
            ann.page.datagram(nonsense)
        await ann({"ping": 1})
        while {"pong": 1} not in await ann.hear(1):
            pass


async def test_many_cursors_go_on_the_stream(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with venue(cert, rooms=RoomsSettings(tick=0.5)) as place:
        code = await place.here.code()
        ann, _ = await place.enter_v2(code)
        room = await place.here.rooms.find(code)
        seats = [room.join(Ghost()) for _ in range(60)]
        for number, seat in enumerate(seats):
            seat.move(number, number)
        while not any(len(one.get("cursors", ())) > 30 for one in await ann.hear(1)):
            pass


async def test_resume_misses_nothing(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with venue(cert, weather=STORMY) as place:
        code = await place.here.code()
        ann, hello = await place.enter_v2(code)
        await ann.hear(2)
        await ann({"draw": {"op": 1, "events": [event(x) for x in range(10)]}})
        assert await ann.hear_xs(10) == list(range(10))
        ann.client.close()
        bob, _ = await place.enter_v2(code)
        await bob({"draw": {"op": 1, "events": [event(10), event(11)]}})
        resume = {
            "client_id": hello["client_id"],
            "token": hello["token"],
            "epoch": hello["epoch"],
            "seq": 10,
        }
        ann, again = await place.enter_v2(code, resume=resume)
        assert (again["recovered"], again["op"], again["client_id"]) == (True, 10, hello["client_id"])
        assert await ann.hear_xs(2) == [10, 11]


async def test_a_bad_network_loses_and_reorders_nothing(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async with venue(cert, weather=STORMY) as place:
        code = await place.here.code()
        ann, _ = await place.enter_v2(code)
        bob, _ = await place.enter_v2(code)
        for op in range(1, 201):
            await (ann if op % 2 else bob)({"draw": {"op": (op + 1) // 2, "events": [event(op)]}})
        first, second = await ann.hear_xs(200), await bob.hear_xs(200)
        assert first == second
        assert sorted(first) == list(range(1, 201))
        assert [x for x in first if x % 2] == list(range(1, 201, 2))


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b'{"draw":{"op":1,"events":[]}}\n', 4401),
        (b"nonsense\n", 4401),
        (b'{"hello":{"name":7}}\n', 4401),
        (b"x" * 70_000, 1009),
        (b"x" * 70_000 + b"\n", 1009),
        (b"", 4401),
    ],
)
async def test_v2_ends(cert: tls.Certificate, autojump_clock: MockClock, said: bytes, code: int) -> None:
    async with venue(cert) as place:
        ann = await place.knock(await place.here.code())
        ann.client.send_raw(ann.stream, said)
        close = await ann.farewell()
        assert close.code == code
        assert close.reason


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"nonsense", 4400),
        (b'{"draw_event":{}}', 4400),
        (b'{"draw_event":{"type":"draw","curr_x":"a"}}', 4400),
        (b'{"draw_event":{"type":"' + b"x" * 70_000 + b'"}}', 1009),
    ],
)
async def test_v1_ends(cert: tls.Certificate, autojump_clock: MockClock, said: bytes, code: int) -> None:
    async with venue(cert) as place:
        ann = await place.enter(await place.here.code())
        ann.page.open(said, end=True)
        close = await ann.farewell()
        assert close.code == code
        assert close.reason


async def test_too_many_errors_close(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with venue(cert) as place:
        ann, _ = await place.enter_v2(await place.here.code())
        await ann(*({"nonsense": 1} for _ in range(20)))
        assert (await ann.farewell()).code == 4400


async def test_no_stream_is_no_hello(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with venue(cert) as place:
        client = await place.there.connect(sessions=True)
        page = ask_for(client, V2, f"/webtransport/canva?code={await place.here.code()}")
        assert (await Drawer(page).farewell()).code == 4401


@pytest.mark.parametrize(("query", "status"), [("", 400), ("?code=AAAAAA", 404), ("?code=a&code=b", 400)])
async def test_boards_that_there_are_not(
    cert: tls.Certificate, autojump_clock: MockClock, query: str, status: int
) -> None:
    async with venue(cert) as place:
        client = await place.there.connect(sessions=True)
        page = ask_for(client, path=f"/webtransport/canva{query}")
        await client.until(lambda: page.answer.ended)
        assert page.answer.status == status


async def test_pages_of_other_origins_are_refused(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    canva = CanvaSettings(allows=lambda origin: origin == "https://app.example")
    async with venue(cert, canva=canva) as place:
        code = await place.here.code()
        for origin, status in ((b"https://evil.example", 403), (b"https://app.example", 200)):
            client = await place.there.connect(sessions=True)
            page = ask_for(client, [(b"origin", origin)], f"/webtransport/canva?code={code}")
            await until_answered(page)
            assert page.answer.status == status


async def test_a_client_that_closes_leaves_the_board(
    cert: tls.Certificate, autojump_clock: MockClock
) -> None:
    async with venue(cert) as place:
        code = await place.here.code()
        room = await place.here.rooms.find(code)
        ann, _ = await place.enter_v2(code)
        bob = await place.enter(code)
        ann.page.say(b"", end=True)
        bob.client.close()
        with trio.fail_after(60):
            while room.board.peers:
                await trio.sleep(0.1)


@pytest.mark.parametrize("how", ["end", "reset", "stop", "vanish"])
async def test_a_stream_that_is_over_is_the_end(
    cert: tls.Certificate, autojump_clock: MockClock, how: str
) -> None:
    async with venue(cert) as place:
        code = await place.here.code()
        room = await place.here.rooms.find(code)
        ann, _ = await place.enter_v2(code)
        match how:
            case "end":
                ann.client.send_raw(ann.stream, b"", end=True)
            case "reset":
                ann.page.reset(ann.stream, to_http_code(3))
            case "stop":
                ann.page.stop(ann.stream, to_http_code(3))
                ann.client.send_raw(ann.stream, b'{"ping":1}\n')
            case _:
                ann.client.close()
        with trio.fail_after(60):
            while room.board.peers:
                await trio.sleep(0.1)
        bob, _ = await place.enter_v2(code)
        await bob({"ping": 1})
        while {"pong": 1} not in await bob.hear(1):
            pass


async def test_a_drain_says_when_to_come_back(cert: tls.Certificate, autojump_clock: MockClock) -> None:
    async with venue(cert) as place:
        code = await place.here.code()
        ann, _ = await place.enter_v2(code)
        bob = await place.enter(code)
        place.there.listener.drain(30)
        assert (await ann.farewell()).code == 1012
        assert (await bob.farewell()).code == 1012
        [drain] = [one for one in ann.fresh() if "drain" in one]
        assert 500 <= drain["drain"]["retry_after_ms"] <= 5000


@pytest.mark.parametrize("v2", [False, True])
async def test_who_reads_nothing_is_closed_and_delays_nobody(
    cert: tls.Certificate, autojump_clock: MockClock, v2: bool
) -> None:
    limits = BoardLimits(backlog=64 * 1024, stall=5.0)
    canva = CanvaSettings(socket=SocketSettings())
    async with venue(cert, rooms=RoomsSettings(tick=0.0, limits=limits), canva=canva) as place:
        code = await place.here.code()
        room = await place.here.rooms.find(code)
        ann, _ = await place.enter_v2(code)
        client = await place.there.connect(sessions=True, stingy=True, window=16 * 1024)
        page = ask_for(client, V2 if v2 else (), f"/webtransport/canva?code={code}")
        await client.until(lambda: page.answer.head)
        if v2:
            page.open(b'{"hello":{}}\n')
        while len(room.board.peers) < 2:
            await trio.sleep(0.01)
        for op in range(1, 120):
            events = [event(op, color="c" * 60) for _ in range(20)]
            await ann({"draw": {"op": 20 * op - 19, "events": events}})
            await ann.hear_xs(20)
        with trio.fail_after(120):
            while len(room.board.peers) > 1:
                await trio.sleep(0.5)
        assert place.here.rooms.counts["closed 4408"] == 1
