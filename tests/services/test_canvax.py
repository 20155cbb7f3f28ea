"""The whiteboard as one call: history, order, half-closing, and every status that it can end with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from trio.testing import MockClock

from fawa.board.board import BoardLimits
from fawa.board.commands import ReadOnly
from fawa.net.exchange import Disconnected
from fawa.proto.canva.v1.canva_pb2 import ClientDrawRequest, ClientDrawResponse, DrawEvent
from fawa.rooms.rooms import RoomsSettings
from fawa.services.admission import AdmissionSettings
from fawa.services.ratelimit import Rate
from tests.net.sockets_talk import over_http1
from tests.net.talk import settle
from tests.rooms.memory import Client, MemoryBoards, draw
from tests.rooms.memory import settings as rooms_settings
from tests.services.boards import Site, drawer, site
from tests.services.memory import LiveStream, MemoryExchange

Stream = LiveStream[ClientDrawRequest, ClientDrawResponse]


def event(x: int, kind: str = "draw", **fields: Any) -> ClientDrawRequest:
    return ClientDrawRequest(draw_event=DrawEvent(type=kind, curr_x=x, **fields))


@attrs.define(eq=False)
class Caller:
    """Somebody who has called Collaborate."""

    stream: Stream
    #: How the call ended: None while it goes on.
    status: Status | None = None
    message: str = ""

    @property
    def is_over(self) -> bool:
        return self.status is not None

    async def hear(self) -> list[ClientDrawResponse]:
        """Return the messages that have come."""
        await settle()
        heard, self.stream.sent = self.stream.sent, []
        return heard

    async def xs(self) -> list[int]:
        """Return the `curr_x` of the events that have come, history included."""
        found = []
        for message in await self.hear():
            if message.HasField("draw_event"):
                found.append(message.draw_event.curr_x)
            else:
                found += [one.curr_x for one in message.initial_history.events]
        return found


@asynccontextmanager
async def calling(
    here: Site, *, code: str | None = None, half_duplex: bool = False, **about: Any
) -> AsyncIterator[Caller]:
    """Call Collaborate; at the end the client goes away, if the call still goes on."""
    headers = [] if code is None else [("fawa-board", code)]
    exchange = MemoryExchange("/", method="POST", headers=[*headers, *about.pop("headers", [])])
    caller = Caller(Stream(exchange, is_half_duplex=half_duplex))
    [rpc] = here.offers["canvax"].rpc
    handler = rpc.__mapping__()["/canva.v1.CanvaService/Collaborate"].func

    async def call() -> None:
        try:
            await handler(caller.stream)
        except GRPCError as error:
            caller.status, caller.message = error.status, error.message or ""
        else:
            caller.status = Status.OK

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await settle()
        yield caller
        nursery.cancel_scope.cancel()


async def test_first_of_all_comes_one_history(autojump_clock: MockClock) -> None:
    async with site() as here, calling(here) as ann:
        assert ann.stream.initial is None
        [first] = await ann.hear()
        assert first == ClientDrawResponse(initial_history={"events": []})
        assert first.HasField("initial_history")
        ann.stream.say(event(1, color="red"), event(0, "ping"), event(2))
        told = await ann.hear()
        assert [one.draw_event.curr_x for one in told] == [1, 2]
        client_id = told[0].draw_event.client_id
        assert len(client_id) == 8
        async with calling(here) as bob:
            [first] = await bob.hear()
            assert [one.curr_x for one in first.initial_history.events] == [1, 2]
            bob.stream.say(event(0, "clear"))
            [told_ann], [told_bob] = await ann.hear(), await bob.hear()
            assert told_ann == told_bob
            assert told_ann.draw_event.client_id != client_id
        async with calling(here) as late:
            [first] = await late.hear()
            assert [one.type for one in first.initial_history.events] == ["clear"]


async def test_it_meets_browsers_on_their_board(autojump_clock: MockClock) -> None:
    async with site() as here:
        code = await here.code()
        async with (
            calling(here) as elsewhere,
            calling(here, code=code.lower()) as ann,
            drawer(here, over_http1, code) as bob,
        ):
            ann.stream.say(event(1))
            await settle()
            [told] = await bob.hear()
            assert told["draw_event"]["curr_x"] == 1
            await bob.say({"draw_event": {"type": "draw", "curr_x": 2}})
            assert await ann.xs() == [1, 2]
            assert await elsewhere.xs() == []


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        ([("fawa-board", "AAAAAA")], Status.NOT_FOUND, "no board with this code"),
        ([("fawa-board", "ABC12")], Status.INVALID_ARGUMENT, "six characters"),
        ([("fawa-board", "")], Status.INVALID_ARGUMENT, "six characters"),
        ([("fawa-board", "AAAAAA"), ("fawa-board", "BBBBBB")], Status.INVALID_ARGUMENT, "given 2 times"),
    ],
)
async def test_a_wrong_board(
    autojump_clock: MockClock, headers: list[tuple[str, str]], status: Status, says: str
) -> None:
    async with site() as here, calling(here, headers=headers) as ann:
        assert ann.status is status
        assert says in ann.message


async def test_too_many_wrong_codes(autojump_clock: MockClock) -> None:
    chosen = AdmissionSettings(wrong_codes=Rate(1, 1 / 60))
    async with site(admission=chosen) as here:
        # Whichever way they come.
        assert (await here.ask("/join?code=AAAAAA")).status == 404
        async with calling(here, code="AAAAAC") as ann:
            assert ann.status is Status.RESOURCE_EXHAUSTED
            assert "60 s" in ann.message


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (ClientDrawRequest(), "no draw_event"),
        (event(1, ""), "type"),
        (event(1, "t" * 33), "type"),
        (event(1, color="c" * 65), "color"),
    ],
)
async def test_an_invalid_event(autojump_clock: MockClock, request_: ClientDrawRequest, says: str) -> None:
    async with site() as here, calling(here) as bob, calling(here) as ann:
        ann.stream.say(event(1), request_, event(2))
        await settle()
        assert ann.status is Status.INVALID_ARGUMENT
        assert says in ann.message
        assert await bob.xs() == [1], "what came before is on the board, what came after is not"
        assert bob.status is None


async def test_who_has_said_all_is_sent_everything_up_to_there(autojump_clock: MockClock) -> None:
    async with site() as here, calling(here) as bob, calling(here) as ann:
        await ann.hear()
        ann.stream.reads = trio.Event()
        ann.stream.say(*map(event, range(100)))
        ann.stream.half_close()
        await settle()
        assert not ann.is_over
        bob.stream.say(event(1000))
        await settle()
        ann.stream.reads.set()
        assert [x for x in await ann.xs() if x < 1000] == list(range(100))
        assert ann.status is Status.OK
        assert bob.status is None


async def test_who_says_nothing_is_sent_the_history(autojump_clock: MockClock) -> None:
    async with site() as here, calling(here) as bob:
        bob.stream.say(event(1))
        await settle()
        async with calling(here) as ann:
            ann.stream.half_close()
            assert await ann.xs() == [1]
            assert ann.status is Status.OK


async def test_a_busy_board_lets_go_of_who_has_said_all(autojump_clock: MockClock) -> None:
    async with site(RoomsSettings(tick=0.001)) as here, calling(here) as ann:
        room = await here.rooms.shared()
        with room.join(Client()) as busy, trio.move_on_after(5) as given_up:
            ann.stream.say(event(-1))
            ann.stream.half_close()
            x = 0
            while ann.status is None:
                busy.draw(0, (draw(x),))
                x += 1
                await trio.sleep(0.0005)
        assert not given_up.cancelled_caught
        assert -1 in await ann.xs()


async def test_who_is_half_duplex_hears_on_until_it_leaves(autojump_clock: MockClock) -> None:
    async with site() as here, calling(here) as bob:
        async with calling(here, half_duplex=True) as ann:
            ann.stream.say(event(1))
            ann.stream.half_close()
            assert await ann.xs() == [1]
            await trio.sleep(3600)
            bob.stream.say(event(2))
            assert await ann.xs() == [2]
            assert ann.status is None
        await settle()
        assert len((await here.rooms.shared()).board.peers) == 1


async def test_who_reads_nothing_is_told_why_it_is_left(autojump_clock: MockClock) -> None:
    async with site() as here, calling(here) as bob, calling(here) as ann:
        await ann.hear()
        ann.stream.reads = trio.Event()
        for x in range(20):
            bob.stream.say(event(x))
            await trio.sleep(1)
        assert (ann.status, ann.message) == (Status.RESOURCE_EXHAUSTED, "nothing was read for too long")
        assert await bob.xs() == list(range(20))


async def test_what_waits_for_who_reads_slowly_is_bounded(autojump_clock: MockClock) -> None:
    limits = BoardLimits(backlog=64 * 1024, batch=4096)
    async with site(RoomsSettings(tick=0.0, limits=limits)) as here, calling(here) as ann:
        await ann.hear()
        ann.stream.reads = trio.Event()
        room = await here.rooms.shared()
        with room.join(Client()) as busy:
            for x in range(2000):
                busy.draw(0, (draw(x, color="#" * 64),))
        ann.stream.reads.set()
        heard = await ann.hear()
        # The few that were on their way, then the board anew.
        clear = next(number for number, one in enumerate(heard) if one.draw_event.type == "clear")
        assert clear < 100
        assert [one.draw_event.curr_x for one in heard[clear + 1 :]] == list(range(2000))
        assert ann.status is None


async def test_a_full_board(autojump_clock: MockClock) -> None:
    chosen = RoomsSettings(tick=0.0, limits=BoardLimits(peers=1))
    async with site(chosen) as here, calling(here), calling(here) as second:
        assert second.status is Status.RESOURCE_EXHAUSTED
        assert "1 clients" in second.message


async def test_too_many_boards(autojump_clock: MockClock) -> None:
    store = MemoryBoards()
    async with site(store=store) as here:
        room = await here.rooms.create()
        with room.join(Client()) as seat:
            seat.draw(0, (draw(1),))
    async with (
        site(rooms_settings(max_boards=0), store=store) as here,
        calling(here, code=room.code) as ann,
    ):
        await trio.sleep(1)
        assert ann.status is Status.RESOURCE_EXHAUSTED


async def test_the_end_of_the_daemon(autojump_clock: MockClock) -> None:
    async with site() as here, calling(here) as ann, calling(here, half_duplex=True) as bob:
        ann.stream.say(event(1))
        await settle()
        here.rooms.drain()
        for caller in (ann, bob):
            assert await caller.xs() == [1]
            assert (caller.status, caller.message) == (Status.UNAVAILABLE, "the server restarts")
        async with calling(here) as late:
            assert late.status is Status.UNAVAILABLE


async def test_a_fault_of_the_engine(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site() as here, calling(here) as ann:
        room = await here.rooms.shared()
        monkeypatch.setattr(room.board, "apply", lambda command, now: 1 // 0)
        ann.stream.say(event(1))
        await settle()
        assert ann.status is Status.INTERNAL


async def test_a_board_that_takes_no_events(autojump_clock: MockClock) -> None:
    async with site() as here, calling(here) as ann:
        room = await here.rooms.shared()
        room.board.apply(ReadOnly(True, "the bus is away"), trio.current_time())
        ann.stream.say(event(1))
        await settle()
        assert (ann.status, ann.message) == (Status.UNAVAILABLE, "the bus is away")


async def test_a_caller_that_cannot_be_written_to(autojump_clock: MockClock) -> None:
    async with site() as here:
        with pytest.RaisesGroup(Disconnected):
            async with calling(here) as ann:
                ann.stream.breaks = True
                ann.stream.say(event(1))
                await settle()
        assert (await here.rooms.shared()).board.is_empty


async def test_what_the_call_raises_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    """A status that the dialect says, and a client that is gone, must not be hidden in a group."""
    async with site() as here:
        async with calling(here) as ann:
            ann.stream.say(GRPCError(Status.INVALID_ARGUMENT, "no protobuf"))
            await settle()
            assert (ann.status, ann.message) == (Status.INVALID_ARGUMENT, "no protobuf")
        with pytest.RaisesGroup(Disconnected):
            async with calling(here) as ann:
                ann.stream.say(Disconnected("gone"))
                await settle()
        assert (await here.rooms.shared()).board.is_empty


async def test_who_draws_too_fast_is_read_later(autojump_clock: MockClock) -> None:
    async with site() as here:
        here.canvax.event_rate = Rate(20, 10)
        async with calling(here) as ann, calling(here) as bob:
            ann.stream.say(*map(event, range(50)))
            seen = await bob.xs()
            assert len(seen) in (20, 21)
            await trio.sleep(4)
            assert seen + await bob.xs() == list(range(50))
