"""What the `fawa` command does, once its command line is read."""

from __future__ import annotations

import argparse
import math
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, BinaryIO, Final

import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client.channel import Channel, connect
from fawa.client.dial import Trust, parse_server
from fawa.client.files import Download, get_link, send_file
from fawa.client.method import rpc
from fawa.client.part import TransferError
from fawa.client.text import complain, one_line, tell, tell_json
from fawa.proto.greet.v1.greet_grpc import GreetServiceBase
from fawa.proto.greet.v1.greet_pb2 import (
    GreetBidiStreamRequest,
    GreetClientStreamRequest,
    GreetStreamRequest,
    SayHelloRequest,
)

#: Bytes copied at once from what has no size.
_SPOOL_PIECE: Final = 1024 * 1024


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
    for file in options.files:
        _check_source(file, options.name)
    async with _connect(options) as channel:
        for file in options.files:
            name = options.name or Path(file).name
            source, size = await _open_source(file)
            with source, meter() as progress:
                answer = await send_file(channel, source, name, size, progress)
            url = ""
            try:
                url = (await get_link(channel, answer.randomkey)).url
            except GRPCError as error:
                # The file is there, and its key must be told.
                complain(f"there is no link to it: {error.message}")
            lines = [
                one_line(name),
                f"  key   {one_line(answer.randomkey)}",
                f"  link  {one_line(url or '(none)')}",
                f"  {one_line(answer.message)}",
            ]
            result = {
                "file": file,
                "name": name,
                "size": size,
                "key": answer.randomkey,
                "link": url or None,
                "message": answer.message,
            }
            _print(options, result, "\n".join(lines))


def _check_source(file: str, name: str | None) -> None:
    """See that a file can be sent, before anything is."""
    if file == "-":
        return
    path = Path(file)
    try:
        if path.is_dir():
            raise TransferError(f"{file} is a folder: pack it into one file first, for example with tar")
        if path.is_file():
            path.open("rb").close()
        else:
            path.stat()
    except OSError as error:
        raise TransferError(f"cannot read {file}: {error.strerror}") from error
    try:
        (name or path.name).encode()
    except UnicodeEncodeError:
        raise TransferError(f"the name of {file!r} is not valid UTF-8: give another with --name") from None


async def _open_source(file: str) -> tuple[BinaryIO, int]:
    """Open a file to send and return its size; what has none yet (a pipe) is copied first."""
    try:
        if file == "-" or not Path(file).is_file():
            return await _spool(file)
        source = await trio.to_thread.run_sync(Path(file).open, "rb")
        return source, os.fstat(source.fileno()).st_size
    except OSError as error:
        raise TransferError(f"cannot read {file}: {error.strerror}") from error


async def _spool(file: str) -> tuple[BinaryIO, int]:
    """Copy what comes out of a pipe to a temporary file."""
    copy: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - returned open
    try:
        descriptor = 0 if file == "-" else await _in_thread(os.open, file, os.O_RDONLY)
        # os.read and no file object: the lock of one would be held at the interpreter's end.
        while data := await _in_thread(os.read, descriptor, _SPOOL_PIECE):
            await trio.to_thread.run_sync(copy.write, data)
        if descriptor:
            os.close(descriptor)
        size = copy.tell()
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy, size


async def _in_thread(function: Callable[..., Any], *arguments: object) -> Any:
    """Call what may block for ever, such as reading a terminal; Ctrl-C leaves it behind."""
    return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)


# receive and link


async def _receive(options: argparse.Namespace) -> None:
    from fawa.client.progress import meter  # noqa: PLC0415

    async with _connect(options) as channel:
        with meter() as progress:
            download = Download(
                channel, options.key, options.output, options.force, _trust(options), progress
            )
            try:
                received = await download.run()
            except BaseException:
                if download.kept is not None:
                    progress.note(f"{download.kept} is kept: run the same command to go on from there")
                raise
    result = {
        "key": options.key,
        "path": str(received.path),
        "size": received.size,
        "resumed_from": received.resumed_from,
    }
    _print(options, result, str(received.path))


async def _link(options: argparse.Namespace) -> None:
    async with _connect(options) as channel:
        answer = await get_link(channel, options.key)
    _print(options, {"key": options.key, "name": answer.filename, "link": answer.url}, one_line(answer.url))


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace], Awaitable[None]]]] = {
    "greet": _greet,
    "send": _send,
    "receive": _receive,
    "link": _link,
}
