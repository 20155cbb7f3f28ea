"""A crowd that calls, draws and sends files loses nothing when the daemon reloads, stops and starts again.

Its clients do one thing after another, and remember what was acknowledged. When the daemon goes they wait
until it is back. Nobody sees an error before it was told to stop, and none but "not now" after that.
"""

from __future__ import annotations

import json
import random
import signal
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import attrs
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.client import CannotReach, Channel, connect, rpc
from fawa.client.errors import Refused
from fawa.proto.canva.v1.canva_grpc import CanvaServiceBase
from fawa.proto.canva.v1.canva_pb2 import ClientDrawRequest, ClientDrawResponse, DrawEvent
from fawa.proto.file.v1.file_grpc import FileServiceBase
from fawa.proto.file.v1.file_pb2 import FileInfo, ReceiveFileRequest, SendFileRequest
from fawa.proto.greet.v1.greet_grpc import GreetServiceBase
from fawa.proto.greet.v1.greet_pb2 import SayHelloRequest
from tests.daemon import PATIENCE, Daemon, running

CALLERS, DRAWERS, SENDERS = 80, 72, 48
BOARDS = 3
#: What each client gets done before something happens to the daemon.
ENOUGH = 3
#: Bytes of the largest file.
LARGEST = 200_000

COLLABORATE = rpc(CanvaServiceBase.Collaborate)
SEND_FILE = rpc(FileServiceBase.SendFile)


@attrs.define(eq=False)
class Crowd:
    """What all clients know, and what was acknowledged to them."""

    address: str
    chance: random.Random
    codes: list[str]
    #: By key: what was sent.
    files: dict[str, bytes] = attrs.field(factory=dict)
    #: By board: the `curr_x` of what was drawn.
    strokes: dict[str, set[int]] = attrs.field(factory=dict)
    greetings: int = 0
    #: How often the daemon was not there, by what its client was told.
    away: list[GRPCError] = attrs.field(factory=list)
    #: Since something last happened, what each client has got done.
    done: dict[str, int] = attrs.field(factory=dict)
    #: The daemon has been told to stop, and is not back.
    stopping: bool = False
    back: trio.Event = attrs.field(factory=trio.Event)
    _progress: trio.Event = attrs.field(factory=trio.Event)
    _next_x: int = 0

    def next_x(self) -> int:
        self._next_x += 1
        return self._next_x

    def count(self, client: str) -> None:
        """A client got something done."""
        self.done[client] += 1
        self._progress.set()

    async def get_on(self) -> None:
        """Wait until every client has got enough done from now on."""
        self.done = dict.fromkeys(self.done, 0)
        with trio.fail_after(4 * PATIENCE):
            while min(self.done.values()) < ENOUGH:
                self._progress = trio.Event()
                await self._progress.wait()

    async def missed(self, error: GRPCError) -> None:
        """Something was not done: see that this may be, and wait until the daemon is back."""
        assert self.stopping, f"{error!r} without a reason"
        assert error.status is Status.UNAVAILABLE, repr(error)
        self.away.append(error)
        await self.back.wait()


@asynccontextmanager
async def channel_to(address: str) -> AsyncIterator[Channel]:
    async with connect(f"http://{address}") as channel:
        yield channel


async def call(crowd: Crowd, me: str) -> None:
    async with channel_to(crowd.address) as channel:
        while True:
            try:
                reply = await channel.unary(rpc(GreetServiceBase.SayHello), SayHelloRequest(name=me))
            except (CannotReach, Refused) as error:
                # Of short calls the daemon cuts none off: it finishes them, or does not begin.
                await crowd.missed(error)
            else:
                assert reply.message.resp == f"Hello, {me}!"
                crowd.greetings += 1
                crowd.count(me)


async def send(crowd: Crowd, me: str) -> None:
    async with channel_to(crowd.address) as channel:
        while True:
            content = crowd.chance.randbytes(crowd.chance.randrange(LARGEST))
            try:
                key = await send_file(channel, content)
            except GRPCError as error:
                await crowd.missed(error)
            else:
                crowd.files[key] = content
                crowd.count(me)


async def send_file(channel: Channel, content: bytes) -> str:
    async with channel.client_stream(SEND_FILE) as upload:
        await upload.send(SendFileRequest(info=FileInfo(name="a.bin", size=len(content))))
        for at in range(0, len(content), 30_000):
            await upload.send(SendFileRequest(chunk_data=content[at : at + 30_000]))
        return (await upload.reply()).randomkey


async def draw(crowd: Crowd, me: str) -> None:
    code = crowd.codes[crowd.chance.randrange(BOARDS)]
    async with channel_to(crowd.address) as channel:
        while True:
            try:
                async with channel.bidi(COLLABORATE, metadata={"fawa-board": code}) as talk:
                    await talk.recv()  # the history
                    while True:
                        x = crowd.next_x()
                        event = DrawEvent(type="draw", size=3, prev_x=x, curr_x=x, prev_y=1, curr_y=2)
                        await talk.send(ClientDrawRequest(draw_event=event))
                        while (heard := await talk.recv()) is not None and heard.draw_event.curr_x != x:
                            pass
                        assert heard is not None, "the call ended without an error"
                        crowd.strokes[code].add(x)
                        crowd.count(me)
            except GRPCError as error:
                await crowd.missed(error)


async def shows(channel: Channel, code: str) -> set[int]:
    """Return the `curr_x` of all that a board shows to who comes late."""
    async with channel.bidi(COLLABORATE, metadata={"fawa-board": code}) as talk:
        first: ClientDrawResponse | None = await talk.recv()
        assert first is not None
        return {event.curr_x for event in first.initial_history.events}


async def receive(channel: Channel, key: str) -> bytes:
    async with channel.server_stream(
        rpc(FileServiceBase.ReceiveFile), ReceiveFileRequest(randomkey=key)
    ) as download:
        return b"".join([message.chunk_data async for message in download])


def new_board(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/create", data=b"", timeout=PATIENCE) as answer:
        code: str = json.load(answer)["code"]
    return code


@asynccontextmanager
async def daemon_at(folder: Path, *flags: str) -> AsyncIterator[Daemon]:
    """Run a daemon while others go on; stopped at the end, well or not at all."""
    context = running(folder / "data", "--config", str(folder / "config.yaml"), *flags)
    daemon = await trio.to_thread.run_sync(context.__enter__)
    error: BaseException | None = None
    try:
        yield daemon
    except BaseException as raised:
        error = raised
        raise
    finally:
        with trio.fail_after(4 * PATIENCE, shield=True):
            await trio.to_thread.run_sync(
                lambda: context.__exit__(type(error) if error else None, error, None)
            )


async def test_a_crowd_loses_nothing_when_the_daemon_reloads_and_restarts(tmp_path: Path, seed: int) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("file.ttl: 1h")
    # Boards that show all that was drawn, one by one.
    flags = ("--board-history", "1000000", "--log-access", "off")
    chance = random.Random(seed)
    kinds = [*[call] * CALLERS, *[draw] * DRAWERS, *[send] * SENDERS]
    clients = {f"{kind.__name__} {number}": kind for number, kind in enumerate(kinds)}

    async with trio.open_nursery() as nursery:
        async with daemon_at(tmp_path, *flags) as daemon:
            codes = [new_board(daemon.plain) for _ in range(BOARDS)]
            crowd = Crowd(daemon.plain, chance, codes, strokes={code: set() for code in codes})
            crowd.done = dict.fromkeys(clients, 0)
            for name, kind in clients.items():
                nursery.start_soon(kind, crowd, name)
            await crowd.get_on()

            config.write_text("file.ttl: 2h")
            daemon.signal(signal.SIGHUP)
            await crowd.get_on()
            daemon.wait_for_event(lambda entry: entry.get("changed") == ["file.ttl"])
            assert crowd.away == []
            crowd.stopping = True

        async with daemon_at(tmp_path, *flags, "--listen", crowd.address):
            crowd.stopping = False
            crowd.back.set()
            await crowd.get_on()
            assert crowd.away, "the daemon went away unnoticed"
            nursery.cancel_scope.cancel()
            with trio.fail_after(4 * PATIENCE, shield=True):
                await check_nothing_is_lost(crowd, seed)


async def check_nothing_is_lost(crowd: Crowd, seed: int) -> None:
    """Look with a client of its own for all that was acknowledged to the others."""
    async with channel_to(crowd.address) as channel:
        for code, drawn in crowd.strokes.items():
            assert drawn - await shows(channel, code) == set(), f"seed {seed}"
        for key, content in crowd.files.items():
            assert sha256(await receive(channel, key)).digest() == sha256(content).digest(), f"seed {seed}"
