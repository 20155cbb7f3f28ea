"""Conversations over HTTP/1.1: each test is what a client says and what it must hear."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from fawa.net.exchange import Exchange
from fawa.net.http1 import H1Connection
from tests.net.talk import (
    DATE,
    Answer,
    Line,
    h11_answers,
    line,
    request,
    settle,
)

BODY = b"0123456789" * 10


async def tell(exchange: Exchange) -> None:
    """Answer with the path, and the length of the body where there is one."""
    body = await exchange.read_all(10_000_000)
    exchange.respond(200, [(b"length", b"%d" % len(body))], exchange.path.encode())


async def ignore(exchange: Exchange) -> None:
    """Answer without a look at the body."""
    exchange.respond(200, [], exchange.path.encode())


async def stream(exchange: Exchange) -> None:
    """Answer in pieces of unknown number."""
    exchange.start(200, [(b"content-type", b"text/plain")])
    for piece in (b"one ", b"two ", b"three"):
        await exchange.send(piece)
        await trio.lowlevel.checkpoint()
    exchange.finish([(b"checksum", b"42")])


def heard(talk: Line, *methods: str) -> list[Answer]:
    return h11_answers(talk.take(), methods, ended=talk.ended())


async def test_a_connection_serves_one_request_after_another() -> None:
    async with line(H1Connection, tell) as talk:
        for number in range(3):
            [answer] = h11_answers(await talk.say(request(f"/{number}")), ["GET"])
            assert (answer.status, answer.body) == (200, b"/%d" % number)
        [answer] = h11_answers(await talk.say(request("/p", "POST", body=BODY)), ["POST"])
        assert answer.header(b"length") == b"100"
        assert not talk.ended()


@pytest.mark.parametrize("sizes", [[], [1], [7, 3, 50]])
async def test_requests_sent_ahead_are_answered_in_their_order(sizes: list[int]) -> None:
    async with line(H1Connection, tell) as talk:
        ahead = b"".join(
            [request("/a"), request("/b", "POST", body=BODY), request("/c", "HEAD"), request("/d")]
        )
        await talk.send(ahead, sizes)
        answers = heard(talk, "GET", "POST", "HEAD", "GET")
        assert [answer.body for answer in answers] == [b"/a", b"/b", b"", b"/d"]
        assert answers[2].header(b"content-length") == b"2"


async def test_an_answer_in_chunks_stays_before_the_next_of_known_length() -> None:
    async def alternate(exchange: Exchange) -> None:
        if exchange.path.startswith("/chunks"):
            exchange.start(200, [])
            exchange.push(exchange.path.encode())
            exchange.finish([(b"last", exchange.path.encode())])
        else:
            exchange.respond(200, [], exchange.path.encode())

    paths = ["/chunks1", "/known1", "/chunks2", "/chunks3", "/known2", "/known3", "/chunks4"]
    async with line(H1Connection, alternate) as talk:
        await talk.send(b"".join(request(path) for path in paths) + b"nonsense\r\n\r\n")
        *answers, bad = heard(talk, *["GET"] * 8)
        assert [answer.body for answer in answers] == [path.encode() for path in paths]
        assert answers[0].trailers == [(b"last", b"/chunks1")]
        assert bad.status == 400


async def test_a_slow_first_answer_holds_the_others_back() -> None:
    go = trio.Event()

    async def first_is_slow(exchange: Exchange) -> None:
        if exchange.path == "/slow":
            await go.wait()
        exchange.respond(200, [], exchange.path.encode())

    async with line(H1Connection, first_is_slow) as talk:
        await talk.send(request("/slow") + request("/quick"))
        await talk.send(request("/late"))
        assert talk.received == b""
        go.set()
        await settle()
        assert [a.body for a in heard(talk, "GET", "GET", "GET")] == [b"/slow", b"/quick", b"/late"]


async def test_head_gets_the_head_and_no_body() -> None:
    async with line(H1Connection, tell) as talk:
        answer = await talk.say(request("/path", "HEAD"))
        [parsed] = h11_answers(answer, ["HEAD"])
        assert parsed.header(b"content-length") == b"5"
        assert answer.endswith(b"\r\n\r\n")
        assert h11_answers(await talk.say(request("/next")), ["GET"])[0].body == b"/next"


async def test_head_of_a_body_of_unknown_length_tells_none() -> None:
    async def head_only(exchange: Exchange) -> None:
        exchange.start(200, [(b"content-type", b"text/plain")], end=True)

    async with line(H1Connection, head_only) as talk:
        [answer] = h11_answers(await talk.say(request("/", "HEAD")), ["HEAD"])
        assert answer.headers == [(b"content-type", b"text/plain"), DATE]
        [answer] = h11_answers(await talk.say(request("/", "GET")), ["GET"])
        assert answer.header(b"content-length") == b"0"


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_that_have_no_body(status: int) -> None:
    async def empty(exchange: Exchange) -> None:
        exchange.start(status, [(b"etag", b'"x"')])
        exchange.finish()

    async with line(H1Connection, empty) as talk:
        answers = h11_answers(await talk.say(request("/a") + request("/b")), ["GET", "GET"])
        assert [(a.status, a.headers) for a in answers] == [(status, [(b"etag", b'"x"'), DATE])] * 2


async def test_chunks_and_trailers() -> None:
    async with line(H1Connection, stream) as talk:
        [answer] = h11_answers(await talk.say(request()), ["GET"])
        assert (answer.body, answer.trailers) == (b"one two three", [(b"checksum", b"42")])
        assert answer.header(b"transfer-encoding") == b"chunked"


async def test_empty_pieces_do_not_end_a_chunked_body() -> None:
    async def with_empty(exchange: Exchange) -> None:
        exchange.start(200, [])
        for piece in (b"", b"a", b"", b"b"):
            await exchange.send(piece)
        exchange.finish()

    async with line(H1Connection, with_empty) as talk:
        assert h11_answers(await talk.say(request()), ["GET"])[0].body == b"ab"


async def test_http_1_0_gets_a_body_that_ends_with_the_connection() -> None:
    async with line(H1Connection, stream) as talk:
        await talk.send(request(version="1.0"))
        assert talk.ended()
        assert b"transfer-encoding" not in talk.received
        [answer] = heard(talk, "GET")
        assert (answer.body, answer.trailers) == (b"one two three", [])


async def test_http_1_0_keeps_the_connection_where_it_asks_to() -> None:
    async with line(H1Connection, tell) as talk:
        [answer] = h11_answers(
            await talk.say(request("/a", "GET", "connection: keep-alive", version="1.0")), ["GET"]
        )
        assert answer.header(b"connection") is None
        await talk.send(request("/b", version="1.0"))
        assert talk.ended()
        assert heard(talk, "GET")[0].header(b"connection") == b"close"


# Expect: 100-continue


EXPECTING = request("/e", "POST", "expect: 100-continue", "content-length: 100")


async def test_who_waits_for_100_continue_gets_it_when_the_body_is_wanted() -> None:
    async with line(H1Connection, tell) as talk:
        assert await talk.say(EXPECTING) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await talk.send(BODY)
        [answer] = heard(talk, "POST")
        assert (answer.status, answer.interim, answer.header(b"length")) == (200, (), b"100")
        assert h11_answers(await talk.say(request("/again")), ["GET"])[0].body == b"/again"


async def test_who_does_not_wait_is_not_told_to_go_on() -> None:
    async with line(H1Connection, tell) as talk:
        await talk.send(EXPECTING + BODY)
        [answer] = heard(talk, "POST")
        assert (answer.interim, answer.header(b"length")) == ((), b"100")


async def test_a_body_that_is_not_wanted_is_refused_before_it_is_sent() -> None:
    async def too_large(exchange: Exchange) -> None:
        exchange.respond_text(413, "too large")

    async with line(H1Connection, too_large) as talk:
        await talk.send(EXPECTING)
        [answer] = heard(talk, "POST")
        assert (answer.status, answer.interim) == (413, ())
        assert talk.ended()  # nobody knows whether what comes next is the body


async def test_http_1_0_cannot_expect() -> None:
    async with line(H1Connection, tell) as talk:
        assert await talk.say(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0")) == b""
        await talk.send(BODY)
        [answer] = heard(talk, "POST")
        assert (answer.interim, answer.header(b"length")) == ((), b"100")


async def test_no_100_continue_after_the_response_has_begun() -> None:
    async def talk_first(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.push(b"got ")
        exchange.push(b"%d" % len(await exchange.read_all(1000)))
        exchange.finish()

    async with line(H1Connection, talk_first) as talk:
        await talk.send(EXPECTING)
        await talk.send(BODY)
        [answer] = heard(talk, "POST")
        assert (answer.body, answer.interim) == (b"got 100", ())


async def test_interim_responses_beside_100_continue() -> None:
    async def tell_before(exchange: Exchange) -> None:
        exchange.inform(104, [(b"location", b"/uploads/1")])
        await tell(exchange)

    async with line(H1Connection, tell_before) as talk:
        interim = b"HTTP/1.1 104 Informational\r\nlocation: /uploads/1\r\n\r\n"
        assert await talk.say(EXPECTING) == interim + b"HTTP/1.1 100 Continue\r\n\r\n"
        await talk.send(BODY)
        assert heard(talk, "POST")[0].header(b"length") == b"100"
        # HTTP/1.0 knows none.
        assert await talk.say(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0")) == b""
        await talk.send(BODY)
        assert heard(talk, "POST")[0].header(b"length") == b"100"


# Bodies that nobody reads


async def test_a_small_unread_body_is_thrown_away_and_the_connection_kept() -> None:
    async with line(H1Connection, ignore) as talk:
        body = bytes(200_000)
        await talk.send(request("/a", "POST", body=body) + request("/b"), [50_000])
        assert [a.body for a in heard(talk, "POST", "GET")] == [b"/a", b"/b"]
        # Also when the answer was out before the body came.
        await talk.send(request("/c", "POST", "content-length: 6"))
        await talk.send(b"abc")
        await talk.send(b"def" + request("/d"))
        assert [a.body for a in heard(talk, "POST", "GET")] == [b"/c", b"/d"]


async def test_a_large_unread_body_ends_the_connection() -> None:
    async with line(H1Connection, ignore) as talk:
        await talk.send(request("/a", "POST", "content-length: 10000000"))
        await talk.send(bytes(300_000))
        assert talk.ended()
        assert [a.body for a in heard(talk, "POST")] == [b"/a"]


async def test_a_body_thrown_away_that_turns_out_malformed_ends_without_a_second_answer() -> None:
    async with line(H1Connection, ignore) as talk:
        await talk.send(request("/a", "POST", "transfer-encoding: chunked"))
        await talk.send(b"5\r\nabcdeXX\r\n")
        assert talk.ended()
        assert [a.body for a in heard(talk, "POST")] == [b"/a"]


async def test_a_body_thrown_away_that_never_comes_ends_without_a_second_answer(
    autojump_clock: MockClock,
) -> None:
    async with line(H1Connection, ignore) as talk:
        await talk.send(request("/a", "POST", "content-length: 6") + b"abc")
        await trio.sleep(59)
        assert not talk.ended()
        await trio.sleep(5)
        assert talk.ended()
        assert [a.body for a in heard(talk, "POST")] == [b"/a"]


async def test_a_body_thrown_away_has_more_time_than_a_head(autojump_clock: MockClock) -> None:
    go = trio.Event()

    async def slow_then_deaf(exchange: Exchange) -> None:
        if exchange.path == "/slow":
            await go.wait()
        exchange.respond(200, [], exchange.path.encode())

    async with line(H1Connection, slow_then_deaf) as talk:
        await talk.send(request("/slow"))
        await talk.send(request("/deaf", "POST", "content-length: 6"))
        go.set()
        await settle()
        for piece in (b"abc", b"def" + request("/next")):
            await trio.sleep(20)  # a head has 15 seconds
            await talk.send(piece)
        assert [a.body for a in heard(talk, "GET", "POST", "GET")] == [b"/slow", b"/deaf", b"/next"]


# What an application may not do


async def test_a_body_longer_than_declared_is_broken_off() -> None:
    async def too_long(exchange: Exchange) -> None:
        exchange.start(200, [(b"content-length", b"3")])
        exchange.push(b"ab")
        exchange.push(b"cd")

    async with line(H1Connection, too_long) as talk:
        await talk.send(request("/a") + request("/b"))
        assert talk.ended()
        assert talk.take().endswith(b"\r\n\r\nab")


async def test_a_body_shorter_than_declared_is_broken_off() -> None:
    async def too_short(exchange: Exchange) -> None:
        exchange.start(200, [(b"content-length", b"3")])
        exchange.push(b"ab")
        exchange.finish()

    async with line(H1Connection, too_short) as talk:
        await talk.send(request("/a") + request("/b"))
        assert talk.ended()
        assert talk.take().endswith(b"\r\n\r\nab")


async def test_a_chunked_body_that_breaks_off_has_no_end() -> None:
    async def fails(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.push(b"ab")
        raise RuntimeError("half-way")

    async with line(H1Connection, fails) as talk:
        await talk.send(request("/a"))
        assert talk.ended()
        assert talk.take().endswith(b"2\r\nab\r\n")


async def test_an_application_that_answers_nothing_ends_the_connection() -> None:
    async def nothing(exchange: Exchange) -> None:
        exchange.abort()

    async with line(H1Connection, nothing) as talk:
        await talk.send(request("/a") + request("/b"))
        assert talk.ended()
        assert talk.take() == b""


@pytest.mark.parametrize("length", [[], [(b"content-length", b"2")]])
@pytest.mark.parametrize("field", [(b"x", b"a\r\nset-cookie: b"), (b"x\ny", b"b"), (b"x", b"a\0")])
async def test_a_header_cannot_smuggle_another(
    field: tuple[bytes, bytes], length: list[tuple[bytes, bytes]]
) -> None:
    async def inject(exchange: Exchange) -> None:
        exchange.start(200, [*length, field])
        exchange.push(b"ok")
        exchange.finish()

    async with line(H1Connection, inject) as talk:
        [answer] = h11_answers(await talk.say(request("/a")), ["GET"])
        assert answer.status == 500
        # And the connection is as good as before.
        assert h11_answers(await talk.say(request("/b")), ["GET"])[0].status == 500


async def test_a_trailer_cannot_smuggle_a_response() -> None:
    async def inject(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.finish([(b"x", b"a\r\n\r\nHTTP/1.1 200 OK")])

    async with line(H1Connection, inject) as talk:
        await talk.send(request("/a"))
        assert talk.ended()
        assert talk.take().count(b"HTTP/1.1") == 1
