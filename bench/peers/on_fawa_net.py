"""What fawa's QUIC layer does with no service on it: echo over WebTransport, a sink and a source on HTTP/3.

`python on_fawa_net.py CERTIFICATE KEY`; the routes are those of `on_aioquic.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from urllib.parse import parse_qs

import trio
from ready import tell_ready

from fawa.net import tls, webtransport
from fawa.net.connection import Limits
from fawa.net.exchange import Disconnected, Exchange
from fawa.net.quic import QuicListener, QuicSettings
from fawa.net.udp import bind_udp

PIECE = bytes(64 * 1024)


async def answer(exchange: Exchange) -> None:
    """Answer one request."""
    if exchange.path == "/sink":
        size = 0
        while data := await exchange.receive():
            size += len(data)
        exchange.respond(200, [], b"%d" % size)
    elif exchange.path == "/source":
        left = int(parse_qs(exchange.query)["bytes"][0])
        exchange.start(200, [(b"content-length", b"%d" % left)])
        while left:
            await exchange.send(PIECE[:left])
            left -= min(left, len(PIECE))
        exchange.finish()
    elif (session := webtransport.accept(exchange, allows=lambda origin: True)) is not None:
        async with trio.open_nursery() as nursery:
            while (stream := await session.accept_stream()) is not None:
                if stream.has_ended:
                    await echo(stream)
                else:
                    nursery.start_soon(echo, stream)


async def echo(stream: webtransport.Stream) -> None:
    """Send back what comes on a stream."""
    with contextlib.suppress(Disconnected), stream:
        while data := await stream.receive():
            await stream.send(data)
        stream.finish()


async def main() -> None:
    chain, key = map(Path, sys.argv[1:])
    certificate = tls.CertificateSource(tls.load_certificate(chain, key))
    listener = QuicListener(answer, Limits(), QuicSettings(), certificate, os.urandom(16), 1000)
    sock = bind_udp("127.0.0.1", 0)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(listener.run, [sock])
            tell_ready(quic=int(sock.address.rpartition(":")[2]))
            async for _ in signals:
                listener.drain(1)
                break


if __name__ == "__main__":
    trio.run(main)
