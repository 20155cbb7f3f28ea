"""Clients at WebSockets, in wire v1 and v2, over HTTP/1.1 and HTTP/2: conversations and every close code."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from fawa.board.board import BoardLimits
from fawa.board.commands import ReadOnly
from fawa.rooms.rooms import RoomsSettings
from fawa.services.canva import CanvaSettings
from fawa.services.canva_client import SocketSettings
from fawa.services.ratelimit import Rate
from tests.net.sockets_talk import BINARY, BOTH, TEXT, Connect, closing, masked, over_http1
from tests.net.talk import examples
from tests.services.boards import AT_ONCE, Site, drawer, site


def event(x: int, **fields: Any) -> dict[str, Any]:
    return {"type": "draw", "curr_x": x, **fields}


def xs(documents: list[dict[str, Any]]) -> list[int]:
    """Return the `curr_x` of the events among documents."""
    events = [document.get("draw_event") or document.get("event") for document in documents]
    return [one["curr_x"] for one in events if one]


def kinds(documents: list[dict[str, Any]]) -> list[str]:
    return [next(iter(document)) for document in documents]


@pytest.mark.parametrize("connect", BOTH)
async def test_v1(autojump_clock: MockClock, connect: Connect) -> None:
    async with site() as here:
        code = await here.code()
        async with drawer(here, connect, code) as ann, drawer(here, connect, code.lower()) as bob:
            assert await ann.hear() == [], "there is no history, so nothing is said of it"
            [told] = await ann.ask({"draw_event": event(1, client_id="FORGED", unknown=5, time=77)})
            assert told["draw_event"].keys() == {
                *("type", "color", "size", "prev_x", "prev_y", "curr_x", "curr_y", "client_id", "time")
            }
            assert told["draw_event"]["client_id"] != "FORGED"
            assert told["draw_event"]["time"] == 77
            assert await bob.hear() == [told]
            assert await bob.ask({"draw_event": {"type": "ping"}}) == []
            async with drawer(here, connect, code) as late:
                assert await late.hear() == [{"initial_history": {"events": [told["draw_event"]]}}]
            await bob.say({"draw_event": {"type": "clear"}})
            assert [one["draw_event"]["type"] for one in await ann.hear()] == ["clear"]
            async with drawer(here, connect, code) as late:
                [history] = await late.hear()
                assert [one["type"] for one in history["initial_history"]["events"]] == ["clear"]


@pytest.mark.parametrize("connect", BOTH)
async def test_v2(autojump_clock: MockClock, connect: Connect) -> None:
    async with site() as here:
        code = await here.code()
        async with drawer(here, connect, code, v2=True) as ann, drawer(here, connect, code) as old:
            hello = await ann.hello(name="Ann", color="teal")
            assert (hello["code"], hello["seq"], hello["op"]) == (code, 0, 0)
            assert (hello["recovered"], hello["read_only"]) == (False, False)
            assert hello["limits"] == {"message": 65536, "events": 256, "rate": 1000, "ping": 25}
            snapshot, presence = await ann.hear()
            assert snapshot == {"snapshot": {"seq": 0, "first": True, "last": True, "strokes": []}}
            assert {one["name"] for one in presence["presence"]["here"]} == {"Ann", ""}

            told = await ann.ask({"draw": {"op": 1, "events": [event(1, stroke=1), event(2, stroke=1)]}})
            assert [(one["event"]["seq"], one["event"]["op"]) for one in told] == [(1, 1), (2, 2)]
            assert xs(await old.hear()) == [1, 2]
            assert await ann.ask({"draw": {"op": 2, "events": [event(2)]}}) == [{"ack": {"op": 2}}]

            assert await ann.ask({"ping": 17}) == [{"pong": 17}]
            [cursors] = await ann.ask({"cursor": {"x": 3, "y": -4}})
            assert cursors == {"cursors": [{"client_id": hello["client_id"], "x": 3, "y": -4}]}
            [presence] = await ann.ask({"profile": {"name": "Anne"}})
            assert [(one["name"], one["color"]) for one in presence["presence"]["here"]] == [("Anne", "teal")]

            [undone] = await ann.ask({"draw": {"op": 3, "events": [{"type": "undo", "stroke": 1}]}})
            assert undone["event"]["type"] == "undo"
            await trio.sleep(1)
            assert [one["draw_event"]["type"] for one in await old.hear()] == ["clear"]


@pytest.mark.parametrize("connect", BOTH)
async def test_who_returns_misses_nothing(autojump_clock: MockClock, connect: Connect) -> None:
    async with site() as here:
        code = await here.code()
        async with drawer(here, connect, code) as other:
            async with drawer(here, connect, code, v2=True) as ann:
                hello = await ann.hello()
                await ann.ask({"draw": {"op": 1, "events": [event(1)]}})
            await other.say({"draw_event": event(2)}, {"draw_event": event(3)})
            resume = {key: hello[key] for key in ("client_id", "token", "epoch")}
            async with drawer(here, connect, code, v2=True) as ann:
                again = await ann.hello(resume={**resume, "seq": 1})
                assert (again["client_id"], again["token"]) == (hello["client_id"], hello["token"])
                assert (again["recovered"], again["seq"], again["op"]) == (True, 3, 1)
                assert xs(await ann.hear()) == [2, 3]
            async with drawer(here, connect, code, v2=True) as ann:
                again = await ann.hello(resume={**resume, "epoch": "another", "seq": 1})
                assert (again["client_id"], again["recovered"]) == (hello["client_id"], False)
                assert kinds(await ann.hear())[0] == "snapshot"
            async with drawer(here, connect, code, v2=True) as thief:
                stolen = await thief.hello(resume={**resume, "token": "forged", "seq": 1})
                assert stolen["client_id"] != hello["client_id"]


async def test_who_resumes_twice_keeps_the_newer_connection(autojump_clock: MockClock) -> None:
    async with site() as here:
        code = await here.code()
        async with (
            drawer(here, over_http1, code, v2=True) as old,
            drawer(here, over_http1, code, v2=True) as new,
        ):
            hello = await old.hello()
            resume = {key: hello[key] for key in ("client_id", "token", "epoch")}
            await new.hello(resume={**resume, "seq": 0})
            assert await old.farewell() == (4409, "resumed on another connection")
            await new.hear()
            assert xs(await new.ask({"draw": {"op": 1, "events": [event(1)]}})) == [1]


BAD: list[tuple[str, str]] = [
    ("", "bad_json"),
    ("{", "bad_json"),
    ("[]", "bad_json"),
    ("null", "bad_json"),
    ("{}", "bad_json"),
    ('{"ping": 1, "cursor": {"x": 1, "y": 1}}', "bad_json"),
    ("[" * 20_000, "bad_json"),
    ('{"dance": 1}', "unknown_message"),
    ('{"ping": -1}', "bad_field"),
    ('{"ping": "x"}', "bad_field"),
    ('{"cursor": {"x": 1}}', "bad_field"),
    ('{"cursor": {"x": 2147483648, "y": 0}}', "bad_field"),
    ('{"cursor": {"x": 1.5, "y": 0}}', "bad_field"),
    ('{"profile": {"name": "%s"}}' % ("n" * 41), "bad_field"),
    ('{"profile": {"nick": "x"}}', "bad_field"),
    ('{"draw": {"op": 0, "events": [{"type": "draw"}]}}', "bad_field"),
    ('{"draw": {"op": 1, "events": []}}', "bad_field"),
    ('{"draw": {"op": 1, "events": [{"type": ""}]}}', "bad_field"),
    ('{"draw": {"op": 1, "events": [{"color": "red"}]}}', "bad_field"),
    ('{"draw": {"op": 1, "events": [{"type": "draw", "color": "%s"}]}}' % ("c" * 65), "bad_field"),
    ('{"draw": {"op": 1, "events": [{"type": "undo"}]}}', "bad_field"),
    (json.dumps({"draw": {"op": 1, "events": [{"type": "draw"}] * 257}}), "too_many_events"),
    ('{"hello": {}}', "unexpected_hello"),
]


@pytest.mark.parametrize(("document", "code"), BAD)
async def test_a_bad_document_is_answered_and_the_connection_goes_on(
    autojump_clock: MockClock, document: str, code: str
) -> None:
    async with site() as here, drawer(here, over_http1, await here.code(), v2=True) as ann:
        await ann.hello()
        await ann.hear()
        [error] = await ann.ask(document)
        assert error["error"]["code"] == code
        assert error["error"]["message"]
        assert await ann.ask({"ping": 1}) == [{"pong": 1}]


async def test_events_that_come_out_of_order_are_asked_for_and_are_no_errors(
    autojump_clock: MockClock,
) -> None:
    async with site() as here, drawer(here, over_http1, await here.code(), v2=True) as ann:
        await ann.hello()
        await ann.hear()
        assert xs(await ann.ask({"draw": {"op": 1, "events": [event(1)]}})) == [1]
        for _ in range(30):
            [error] = await ann.ask({"draw": {"op": 3, "events": [event(3)]}})
            assert (error["error"]["code"], error["error"]["op"]) == ("out_of_order", 3)
        assert xs(await ann.ask({"draw": {"op": 2, "events": [event(2), event(3)]}})) == [2, 3]


async def test_a_board_that_takes_no_events(autojump_clock: MockClock) -> None:
    async with site() as here:
        room = await here.rooms.create()
        async with (
            drawer(here, over_http1, room.code, v2=True) as ann,
            drawer(here, over_http1, room.code) as old,
        ):
            await ann.hello()
            await ann.hear()
            room.board.apply(ReadOnly(True, "the bus is away"), trio.current_time())
            room.flush()
            assert await ann.hear() == [{"status": {"read_only": True, "reason": "the bus is away"}}]
            for _ in range(30):
                [error] = await ann.ask({"draw": {"op": 1, "events": [event(1)]}})
                assert error["error"] == {"code": "read_only", "message": "the bus is away", "op": 1}
            assert await old.ask({"draw_event": event(2)}) == []
            room.board.apply(ReadOnly(False, ""), trio.current_time())
            room.flush()
            [status, told] = await ann.ask({"draw": {"op": 1, "events": [event(1)]}})
            assert status["status"]["read_only"] is False
            assert xs([told]) == [1]
            assert xs(await old.ask({"draw_event": event(2)})) == [1, 2]


async def test_twenty_errors_in_a_minute_are_too_many(autojump_clock: MockClock) -> None:
    async with site() as here, drawer(here, over_http1, await here.code(), v2=True) as ann:
        await ann.hello()
        await ann.hear()
        for _ in range(2):
            for number in range(19):
                assert kinds(await ann.ask("?")) == ["error"], number
            for _ in range(3):
                await trio.sleep(20)
                assert await ann.ask({"ping": 1}) == [{"pong": 1}]
        for number in range(19):
            assert kinds(await ann.ask("?")) == ["error"], number
        await ann.say("?")
        code, reason = await ann.farewell()
        assert code == 4400
        assert "20 documents" in reason


@pytest.mark.parametrize(
    "first",
    [
        {"ping": 1},
        {"draw": {"op": 1, "events": [event(1)]}},
        {"hello": {"name": "n" * 41}},
        {"hello": {}, "ping": 1},
        "nonsense",
        {"draw_event": event(1)},
    ],
)
async def test_first_of_all_comes_a_hello(autojump_clock: MockClock, first: Any) -> None:
    async with site() as here:
        code = await here.code()
        async with drawer(here, over_http1, code, v2=True) as ann:
            await ann.say(first)
            assert (await ann.farewell())[0] == 4401
        assert (await here.rooms.find(code)).board.is_empty


async def test_a_hello_comes_in_time(autojump_clock: MockClock) -> None:
    async with site() as here, drawer(here, over_http1, await here.code(), v2=True) as ann:
        await trio.sleep(9.9)
        assert await ann.hear() == []
        assert ann.closed is None
        await trio.sleep(0.2)
        assert await ann.farewell() == (4401, "no hello came within 10 s")


@pytest.mark.parametrize(
    "document",
    [
        "",
        "nonsense",
        "[]",
        '{"draw_event": 5}',
        '{"draw_event": {}}',
        '{"draw_event": {"type": 5}}',
        '{"draw_event": {"type": "%s"}}' % ("t" * 33),
        '{"draw_event": {"type": "draw", "size": 2147483648}}',
        '{"draw_event": {"type": "draw", "curr_x": "1"}}',
        '{"other": {"type": "draw"}}',
    ],
)
@pytest.mark.parametrize("connect", BOTH)
async def test_a_bad_document_ends_a_v1_client_alone(
    autojump_clock: MockClock, connect: Connect, document: str
) -> None:
    async with site() as here:
        code = await here.code()
        async with drawer(here, connect, code) as bad, drawer(here, connect, code) as good:
            await bad.say({"draw_event": event(1)}, document)
            code_, reason = await bad.farewell()
            assert code_ == 4400
            assert reason
            await good.say({"draw_event": event(2)})
            assert xs(await good.hear()) == [1, 2]


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("connect", BOTH)
async def test_what_breaks_the_rules_of_websocket(
    autojump_clock: MockClock, connect: Connect, v2: bool
) -> None:
    cases = [
        (masked(BINARY, b'{"ping": 1}'), 1003),
        (masked(TEXT, b"\xff\xfe"), 1007),
        (masked(TEXT, b"{}", rsv=1), 1002),
        (masked(TEXT, b"{}", mask=None), 1002),
        (masked(TEXT, b" " * 65537), 1009),
    ]
    async with site() as here:
        code = await here.code()
        for data, expected in cases:
            async with drawer(here, connect, code, v2=v2) as ann:
                if v2:
                    await ann.hello()
                    await ann.hear()
                await ann.client.send(data)
                assert (await ann.farewell())[0] == expected
        assert (await here.rooms.find(code)).board.is_empty


async def test_a_message_may_be_as_long_as_the_setting_says(autojump_clock: MockClock) -> None:
    chosen = CanvaSettings(socket=SocketSettings(max_message=1024))
    async with site(canva=chosen) as here, drawer(here, over_http1, await here.code(), v2=True) as ann:
        assert (await ann.hello())["limits"]["message"] == 1024
        await ann.hear()
        assert kinds(await ann.ask(" " * 1024)) == ["error"]
        await ann.say(" " * 1025)
        assert (await ann.farewell())[0] == 1009


@pytest.mark.parametrize("connect", BOTH)
async def test_who_leaves_is_gone_from_the_board(autojump_clock: MockClock, connect: Connect) -> None:
    async with site() as here:
        code = await here.code()
        async with drawer(here, connect, code, v2=True) as ann, drawer(here, connect, code, v2=True) as bob:
            await ann.hello()
            left = (await bob.hello())["client_id"]
            await ann.hear()
            await bob.client.send(closing(1000))
            await trio.testing.wait_all_tasks_blocked()
            [presence] = await ann.hear()
            assert presence["presence"]["gone"] == [left]
        assert (await here.rooms.find(code)).board.is_empty


async def test_a_silent_client_is_asked_and_then_given_up(autojump_clock: MockClock) -> None:
    async with site() as here:
        code = await here.code()
        async with drawer(here, over_http1, code) as ann:
            await ann.say({"draw_event": event(1)})
            await trio.sleep(34)
            assert ann.client.over()
        assert (await here.rooms.find(code)).board.is_empty


@pytest.mark.parametrize("connect", BOTH)
async def test_the_end_of_the_daemon(autojump_clock: MockClock, connect: Connect) -> None:
    async with site() as here:
        code = await here.code()
        delays: set[int] = set()
        async with drawer(here, connect, code) as old:
            for _ in range(3):
                async with (
                    drawer(here, connect, code, v2=True) as ann,
                    drawer(here, connect, code, v2=True) as mute,
                ):
                    await ann.hello()
                    await ann.hear()
                    if len(delays) < 2:
                        ann.client.talk.conn.start_drain()
                        [drain] = await ann.hear()
                        delays.add(drain["drain"]["retry_after_ms"])
                        assert (await ann.farewell())[0] == 1012
                        continue
                    here.rooms.drain()
                    [drain] = await ann.hear()
                    delays.add(drain["drain"]["retry_after_ms"])
                    assert await ann.farewell() == (1012, "the server restarts")
                    # Who has not said hello yet is told when it does.
                    await mute.say({"hello": {}})
                    assert (await mute.farewell())[0] == 1012
            assert await old.hear() == []
            assert await old.farewell() == (1012, "the server restarts")
        assert len(delays) > 1, "they must not all come back at once"
        assert all(500 <= delay <= 5000 for delay in delays)


async def test_a_board_may_go_before_the_hello_comes(autojump_clock: MockClock) -> None:
    chosen = RoomsSettings(tick=0.0, grace=0.0, limits=BoardLimits(idle=1))
    async with site(chosen) as here, drawer(here, over_http1, await here.code(), v2=True) as ann:
        await trio.sleep(5)
        await ann.say({"hello": {}})
        assert await ann.farewell() == (4404, "the board is gone")


async def test_a_board_may_not_be_brought_back_for_a_late_hello(autojump_clock: MockClock) -> None:
    chosen = RoomsSettings(tick=0.0, limits=BoardLimits(idle=1))
    async with site(chosen) as here, drawer(here, over_http1, await here.code(), v2=True) as ann:
        await trio.sleep(5)
        here.store.broken = True
        await ann.say({"hello": {}})
        assert (await ann.farewell())[0] == 1011


@pytest.mark.parametrize("v2", [False, True])
async def test_a_full_board(autojump_clock: MockClock, v2: bool) -> None:
    chosen = RoomsSettings(tick=0.0, limits=BoardLimits(peers=1))
    async with site(chosen) as here:
        code = await here.code()
        async with drawer(here, over_http1, code), drawer(here, over_http1, code, v2=v2) as second:
            if v2:
                await second.say({"hello": {}})
            assert await second.farewell() == (4413, "the board has 1 clients, as many as it may")


@pytest.mark.parametrize("v2", [False, True])
async def test_who_draws_too_fast_is_read_later_and_loses_nothing(
    autojump_clock: MockClock, v2: bool
) -> None:
    chosen = CanvaSettings(socket=SocketSettings(event_rate=Rate(20, 10)))
    async with site(canva=chosen) as here:
        code = await here.code()
        async with drawer(here, over_http1, code, v2=v2) as fast, drawer(here, over_http1, code) as calm:
            if v2:
                await fast.hello()
                await fast.say(*({"draw": {"op": n + 1, "events": [event(n)]}} for n in range(50)))
            else:
                await fast.say(*({"draw_event": event(n)} for n in range(50)))
            seen = xs(await calm.hear())
            assert seen == list(range(len(seen)))
            assert len(seen) in (20, 21)
            # Others go on meanwhile.
            assert xs(await calm.ask({"draw_event": event(1000)})) == [1000]
            await trio.sleep(1)
            seen += xs(await calm.hear())
            assert 30 <= len(seen) <= 33
            await trio.sleep(3)
            seen += xs(await calm.hear())
            assert seen == list(range(50))


async def test_between_large_messages_it_is_the_turn_of_others(autojump_clock: MockClock) -> None:
    async with site() as here:
        code = await here.code()
        async with drawer(here, over_http1, code, v2=True) as fast, drawer(here, over_http1, code) as calm:
            await fast.hello()
            events = [event(1, color="#" * 64)] * 200
            # All of it is there to be read, and none of it is too much.
            documents = [{"draw": {"op": 200 * n + 1, "events": events}} for n in range(8)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fast.say, *documents)
                nursery.start_soon(calm.say, {"draw_event": event(7)})
            seen = xs(await calm.hear())
            assert len(seen) == 1601
            assert seen.index(7) <= 400


async def test_a_frozen_client_is_closed_and_nobody_waits_for_it(autojump_clock: MockClock) -> None:
    limits = BoardLimits(backlog=64 * 1024, batch=16 * 1024)
    async with site(RoomsSettings(tick=0.004, limits=limits)) as here:
        room = await here.rooms.create()
        async with drawer(here, over_http1, room.code) as frozen, drawer(here, over_http1, room.code) as calm:
            conn = frozen.client.talk.conn
            # The peer takes nothing from here on.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(conn), "is_flushed", property(lambda one: one is not conn))
                seen: list[int] = []
                for x in range(200):
                    await calm.say({"draw_event": event(x, color="#" * 64)})
                    await trio.sleep(0.1)
                    seen += xs(await calm.hear())
                assert seen == list(range(200))
                assert (await frozen.farewell()) == (4408, "nothing was read for too long")
        assert here.rooms.counts["closed 4408"] == 1


async def test_the_access_log_is_told_which_wire_and_how_it_ended(autojump_clock: MockClock) -> None:
    labels = []
    async with site() as here:
        code = await here.code()

        async def handle(exchange: Any) -> None:
            await here.handle(exchange)
            labels.append((exchange.label, exchange.status))

        for v2 in (False, True):
            more = ["sec-websocket-protocol: other, fawa.v2"] if v2 else []
            async with over_http1(handle, f"/ws/canva?code={code}", *more) as client:
                await client.send(masked(TEXT, b"?"))
                await client.send(closing(1000))
    assert labels == [("websocket-v1 4400", 101), ("websocket-v2 4401", 101)]


@given(documents=st.lists(st.text() | st.sampled_from([document for document, _ in BAD]), max_size=8))
@settings(max_examples=examples(25))
def test_any_documents_leave_the_board_and_its_other_clients_well(documents: list[str]) -> None:
    async def converse(here: Site) -> None:
        code = await here.code()
        async with drawer(here, over_http1, code) as calm:
            async with drawer(here, over_http1, code, v2=True) as wild:
                await wild.hello()
                await wild.hear()
                for document in documents:
                    await wild.client.send(masked(TEXT, document.encode("utf-8", "replace")))
                answers = await wild.hear()
                assert len(answers) == len(documents)
            async with drawer(here, over_http1, code) as wilder:
                for document in documents[:1]:
                    await wilder.client.send(masked(TEXT, document.encode("utf-8", "replace")))
                    assert (await wilder.farewell())[0] == 4400
            assert xs(await calm.ask({"draw_event": event(1)})) == [1]

    async def main() -> None:
        async with site(AT_ONCE) as here:
            await converse(here)

    trio.run(main, clock=MockClock(autojump_threshold=0))
