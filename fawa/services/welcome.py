"""The front page: what is served here and how to try it."""

from __future__ import annotations

from fawa import __version__
from fawa.net.exchange import Exchange

_TEXT = """\
fawa {version} is running.

Greet it:        curl --json '{{"name":"World"}}' {base}/greet.v1.GreetService/SayHello
Send a file:     fawa send --server {base} report.pdf
Receive it:      fawa receive --server {base} KEY
See all methods: grpcurl -plaintext {authority} list
"""


async def welcome(exchange: Exchange) -> None:
    """Answer `GET /` with a few lines to copy."""
    authority = exchange.authority or "127.0.0.1:8080"
    text = _TEXT.format(version=__version__, base=f"{exchange.scheme}://{authority}", authority=authority)
    exchange.respond_text(200, text.rstrip("\n"))
