"""What the `fawa` command does, once its command line is read."""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client.channel import Channel, connect
from fawa.client.dial import Trust, parse_server
from fawa.client.files import get_link
from fawa.client.method import rpc
from fawa.client.receiving import Reference, page_link, receive
from fawa.client.sending import check_source, open_source, seal_source
from fawa.client.text import complain, one_line, tell, tell_json
from fawa.client.upload import Upload
from fawa.proto.file.v1.file_grpc import FileServiceBase
from fawa.proto.file.v1.file_pb2 import DeleteFileRequest, Terms
from fawa.proto.greet.v1.greet_grpc import GreetServiceBase
from fawa.proto.greet.v1.greet_pb2 import (
    GreetBidiStreamRequest,
    GreetClientStreamRequest,
    GreetStreamRequest,
    SayHelloRequest,
)


class UsageError(Exception):
    """The command line asks for what cannot be; the text says why."""


async def run(options: argparse.Namespace) -> None:
    """Run one command to its end.

    Raises:
        GRPCError: a call failed.
        KeyboardInterrupt: Ctrl-C; what was under way has been given up in good order.
        TransferError: a file cannot be sent or received.
        UsageError: the options do not fit together.

    """
    command = _COMMANDS[options.command]
    failure: Exception | None = None
    interrupted = False

    async def watch(scope: trio.CancelScope) -> None:
        nonlocal interrupted
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                interrupted = True
                scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        with trio.move_on_after(options.timeout) as timeout:
            try:
                await command(options)
            except Exception as error:
                failure = error
        nursery.cancel_scope.cancel()
    if interrupted:
        raise KeyboardInterrupt
    if timeout.cancelled_caught:
        raise GRPCError(Status.DEADLINE_EXCEEDED, f"not done in {options.timeout:g} s")
    if failure is not None:
        raise failure


def _connect(options: argparse.Namespace) -> AbstractAsyncContextManager[Channel]:
    try:
        origin = parse_server(options.server)
        if origin.scheme == "https" or options.ca is not None:
            _trust(options).context("h2")
    except ValueError as error:
        raise UsageError(str(error)) from error
    if options.http3 and origin.scheme != "https":
        raise UsageError(
            f"--http3 needs https, which {origin} is not; for a fawad with its usual ports on this machine: "
            "--server https://127.0.0.1:8443"
        )
    return connect(
        options.server,
        dialect=options.dialect,
        http="3" if options.http3 else "2",
        ca=options.ca,
        insecure=options.insecure,
    )


def _trust(options: argparse.Namespace) -> Trust:
    return Trust(options.ca, options.insecure)


def _print(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """Print one result, for programs or for people."""
    if options.json:
        tell_json(result)
    else:
        tell(text)


# greet


async def _greet(options: argparse.Namespace) -> None:
    timeout = None if options.timeout == math.inf else options.timeout
    names: list[str] = options.names

    def say(text: str, **about: object) -> None:
        _print(options, {"mode": options.mode, **about, "text": text}, one_line(text))

    async with _connect(options) as channel:
        if options.mode == "unary":
            for name in names:
                reply = await channel.unary(
                    rpc(GreetServiceBase.SayHello), SayHelloRequest(name=name), timeout=timeout
                )
                say(reply.message.resp, name=name)
        elif options.mode == "server-stream":
            for name in names:
                async with channel.server_stream(
                    rpc(GreetServiceBase.GreetStream), GreetStreamRequest(name=name), timeout=timeout
                ) as parts:
                    async for part in parts:
                        say(part.part, name=name)
        elif options.mode == "client-stream":
            async with channel.client_stream(
                rpc(GreetServiceBase.GreetClientStream), timeout=timeout
            ) as many:
                for name in names:
                    await many.send(GreetClientStreamRequest(name=name))
                say((await many.reply()).summary, names=names)
        else:
            async with channel.bidi(rpc(GreetServiceBase.GreetBidiStream), timeout=timeout) as talk:
                for name in names:
                    await talk.send(GreetBidiStreamRequest(name=name))
                    if (answer := await talk.recv()) is not None:
                        say(answer.echo, name=name)
                await talk.done_sending()
                async for answer in talk:
                    say(answer.echo)


# send


async def _send(options: argparse.Namespace) -> None:
    from fawa.client.progress import meter  # noqa: PLC0415 - rich is slow to import

    if options.name is not None and len(options.files) > 1:
        raise UsageError("--name is for one file")
    if options.name is None and "-" in options.files:
        raise UsageError("standard input has no name: give one with --name")
    terms = Terms(
        ttl_seconds=options.ttl,
        max_downloads=1 if options.once else options.max_downloads,
        password=_password(options),
    )
    for file in options.files:
        check_source(file, options.name)
    async with _connect(options) as channel:
        for file in options.files:
            source = await open_source(file, options.name)
            name, size, secret = source.name, source.size, None
            with contextlib.closing(source.file), meter() as progress:
                if options.encrypt:
                    source, secret = seal_source(source)
                answer = await Upload(channel, source, progress, terms).run()
            if secret is None:
                url = await _link_if_any(channel, answer.randomkey, terms.password)
            else:
                url = page_link(options.server, answer.randomkey, secret)
            lines = [
                one_line(name),
                f"  key   {one_line(answer.randomkey)}",
                f"  link  {one_line(url or '(none)')}",
                f"  token {one_line(answer.owner_token or '(none)')}",
                f"  {one_line(answer.message)}",
            ]
            if secret is not None:
                lines.append("  encrypted: whoever has the link can open it, and nobody else")
            result = {
                "file": file,
                "name": name,
                "size": size,
                "encrypted": secret is not None,
                "key": answer.randomkey,
                "link": url or None,
                "owner_token": answer.owner_token or None,
                "message": answer.message,
            }
            _print(options, result, "\n".join(lines))


async def _link_if_any(channel: Channel, key: str, password: str) -> str:
    try:
        return (await get_link(channel, key, password)).url
    except GRPCError as error:
        # The file is there, and its key must be told.
        complain(f"there is no link to it: {error.message}")
        return ""


# receive and link


async def _receive(options: argparse.Namespace) -> None:
    from fawa.client.progress import meter  # noqa: PLC0415

    reference = Reference.read(options.key)
    options.server = reference.server or options.server
    async with _connect(options) as channel:
        with meter() as progress:
            received = await receive(
                channel,
                reference,
                options.output,
                _trust(options),
                progress,
                force=options.force,
                as_is=options.as_is,
                password=_password(options),
            )
    result = {
        "key": reference.key,
        "path": str(received.path),
        "size": received.size,
        "resumed_from": received.resumed_from,
    }
    _print(options, result, str(received.path))


async def _link(options: argparse.Namespace) -> None:
    async with _connect(options) as channel:
        answer = await get_link(channel, options.key, _password(options))
    _print(options, {"key": options.key, "name": answer.filename, "link": answer.url}, one_line(answer.url))


# board


async def _board(options: argparse.Namespace) -> None:
    from fawa.client.board import commands  # noqa: PLC0415 - QUIC and WebSocket are slow to import

    await commands.board(options)


def _password(options: argparse.Namespace) -> str:
    """Return the password: never on the command line, which every user of the machine can see."""
    if options.password_file is None:
        return ""
    try:
        text: str = options.password_file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the password in {options.password_file}: {error}") from error
    password = text.partition("\n")[0].rstrip("\r")
    if not password:
        raise UsageError(f"there is no password in {options.password_file}")
    return password


async def _delete(options: argparse.Namespace) -> None:
    async with _connect(options) as channel:
        request = DeleteFileRequest(randomkey=options.key, owner_token=options.token)
        await channel.unary(rpc(FileServiceBase.DeleteFile), request)
    _print(options, {"key": options.key, "deleted": True}, f"{one_line(options.key)} is deleted")


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace], Awaitable[None]]]] = {
    "greet": _greet,
    "send": _send,
    "receive": _receive,
    "link": _link,
    "board": _board,
    "delete": _delete,
}
