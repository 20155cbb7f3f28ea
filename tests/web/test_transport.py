"""How a page reaches its board: WebTransport in a plain Chromium, WebSocket where that is not to be had."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from playwright.sync_api import Page, expect

from fawa.proto.canva.v1 import canva_pb2
from tests.browser import Browser, browsing
from tests.daemon import Daemon, running
from tests.web.board import (
    BLACK,
    GREEN,
    RED,
    create,
    draw,
    expect_live,
    expect_pixel,
    expect_same_picture,
    join,
)
from tests.web.test_board_offline import WITHOUT_WEBTRANSPORT, forgive, try_now

LINE = [(200.0, 300.0), (600.0, 300.0)]
OTHER = [(200.0, 500.0), (600.0, 500.0)]


def expect_transport(page: Page, name: str, why: str) -> None:
    """Check what the page says of its connection."""
    expect(page.locator("#link-facts")).to_contain_text(name)
    expect(page.locator("#link-facts")).to_contain_text(why)


@pytest.fixture
def plain_browser(tmp_path: Path) -> Iterator[Browser]:
    """A Chromium that trusts nothing that it would not trust by itself."""
    with browsing(tmp_path / "plain") as started:
        yield started


def test_three_ways_to_one_board(plain_browser: Browser, daemon: Daemon) -> None:
    ada = plain_browser.page()
    address = create(ada, f"http://{daemon.plain}")
    expect_transport(ada, "WebTransport", "faster")
    bob = plain_browser.page()
    bob.add_init_script(WITHOUT_WEBTRANSPORT)
    join(bob, address)
    expect_transport(bob, "WebSocket", "This browser has no WebTransport.")
    draw(ada, LINE, color=1)
    draw(bob, OTHER, color=3)
    for page in (ada, bob):
        expect_pixel(page, (400, 300), RED)
        expect_pixel(page, (400, 500), GREEN)
    collaborate(daemon, address.rpartition("/")[2])
    for page in (ada, bob):
        expect_pixel(page, (400, 700), BLACK)
    expect_same_picture(ada, bob)
    cleo = plain_browser.page()
    join(cleo, address)
    expect_transport(cleo, "WebTransport", "faster")
    expect_same_picture(ada, cleo)


def collaborate(daemon: Daemon, code: str) -> None:
    """Draw with grpcio."""
    event = canva_pb2.DrawEvent(
        type="draw", color="#1a1a1a", size=12, prev_x=200, prev_y=700, curr_x=600, curr_y=700
    )
    with grpc.insecure_channel(daemon.plain) as channel:
        call = channel.stream_stream(
            "/canva.v1.CanvaService/Collaborate",
            request_serializer=canva_pb2.ClientDrawRequest.SerializeToString,
            response_deserializer=canva_pb2.ClientDrawResponse.FromString,
        )
        answers = call(iter([canva_pb2.ClientDrawRequest(draw_event=event)]), metadata=[("fawa-board", code)])
        assert any(answer.draw_event.prev_y == 700 for answer in answers)


def test_localhost_by_name(plain_browser: Browser, daemon: Daemon) -> None:
    ada = plain_browser.page()
    create(ada, f"http://localhost:{daemon.plain.rpartition(':')[2]}")
    expect_transport(ada, "WebTransport", "faster")


@contextlib.contextmanager
def silence() -> Iterator[int]:
    """A UDP port at which nobody ever answers, as behind a firewall."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_udp_that_does_not_answer(plain_browser: Browser, tmp_path: Path) -> None:
    with silence() as port, running(tmp_path / "data", "--quic-public-port", str(port)) as daemon:
        ada = plain_browser.page()
        address = create(ada, f"http://{daemon.plain}")
        expect_transport(ada, "WebSocket", "UDP did not answer within")
        bob = plain_browser.page()
        join(bob, address)
        draw(ada, LINE, color=1)
        expect_pixel(bob, (400, 300), RED)
        ada.close()
        bob.close()
    forgive(plain_browser)


def test_no_quic_at_all(plain_browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path / "data", "--quic-enabled", "off") as daemon:
        ada = plain_browser.page()
        create(ada, f"http://{daemon.plain}")
        expect_transport(ada, "WebSocket", "The server offers no WebTransport.")
        ada.close()
    plain_browser.complaints[:] = [
        one for one in plain_browser.complaints if "404" not in one and "net::ERR" not in one
    ]


def test_a_drain_and_a_restart(plain_browser: Browser, tmp_path: Path) -> None:
    data = tmp_path / "data"
    ada, bob = plain_browser.page(), plain_browser.page()
    bob.add_init_script(WITHOUT_WEBTRANSPORT)
    with running(data) as daemon:
        ports = ("--listen", daemon.plain, "--listen-tls", daemon.tls)
        address = create(ada, f"http://{daemon.plain}")
        join(bob, address)
        draw(ada, LINE, color=1)
        expect_pixel(bob, (400, 300), RED)
        daemon.stop()
    for page in (ada, bob):
        expect(page.locator("#notice")).to_contain_text("Trying again in")
    draw(ada, OTHER, color=3)
    with running(data, *ports):
        for page in (ada, bob):
            try_now(page)
            expect_live(page)
        expect_transport(ada, "WebTransport", "faster")
        expect_pixel(bob, (400, 500), GREEN)
        expect_same_picture(ada, bob)
        # Once: undone, nothing of it is left, and the rest is.
        ada.keyboard.press("Control+z")
        expect_pixel(bob, (400, 500), "255,255,255")
        expect_pixel(bob, (400, 300), RED)
        forgive(plain_browser)
        ada.close()
        bob.close()


#: A page that knows the contract and nothing of fawa's page.
V1 = """async ({url, hashes, events}) => {
  const wt = new WebTransport(url, {
    serverCertificateHashes: hashes.map((hash) => ({
      algorithm: "sha-256", value: Uint8Array.from(atob(hash), (c) => c.charCodeAt(0)) })),
  });
  await wt.ready;
  const heard = [];
  const enough = new Promise((done) => {
    (async () => {
      for await (const stream of wt.incomingUnidirectionalStreams) {
        const text = await new Response(stream).text();
        heard.push(JSON.parse(text));
        if (heard.length === events.length) done();
      }
    })().catch(() => {});
  });
  for (const event of events) {
    const {writable} = await wt.createBidirectionalStream();
    const writer = writable.getWriter();
    await writer.write(new TextEncoder().encode(JSON.stringify({draw_event: event})));
    await writer.close();
  }
  await enough;
  wt.close();
  return heard;
}"""


def test_wire_v1_by_plain_webtransport_calls(plain_browser: Browser, daemon: Daemon) -> None:
    ada, old = plain_browser.page(), plain_browser.page()
    address = create(ada, f"http://{daemon.plain}")
    code = address.rpartition("/")[2]
    old.goto(f"http://{daemon.plain}/")
    offer = old.evaluate("fetch('/.well-known/fawa/webtransport').then((answer) => answer.json())")
    assert len(offer["hashes"]) == 2
    port = daemon.tls.rpartition(":")[2]
    assert (str(offer["port"]), offer["path"]) == (port, "/webtransport/canva")
    url = f"https://127.0.0.1:{port}/webtransport/canva?code={code}"
    events: list[dict[str, Any]] = [
        {
            "type": "draw",
            "color": "#c62f1d",
            "size": 10,
            "prev_x": x,
            "prev_y": 300,
            "curr_x": x + 2,
            "curr_y": 300,
        }
        for x in range(200, 700, 2)
    ]
    heard = old.evaluate(V1, {"url": url, "hashes": offer["hashes"], "events": events})
    assert sorted(one["draw_event"]["prev_x"] for one in heard) == [event["prev_x"] for event in events]
    assert len({one["draw_event"]["client_id"] for one in heard}) == 1
    expect_pixel(ada, (400, 300), RED)
