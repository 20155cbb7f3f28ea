"""The network between a page and the daemon, which can go down and lead elsewhere."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
from collections.abc import Callable, Iterator

import attrs

_PIECE = 64 * 1024


@attrs.define(eq=False)
class Network:
    """Passes bytes between browsers and `target` while it is up."""

    #: "address:port" of the daemon; takes effect for new connections.
    target: str
    listener: socket.socket
    _is_up: bool = True
    #: Bytes from browsers after which it goes down.
    _left: float = math.inf
    _open: set[socket.socket] = attrs.field(factory=set, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _threads: list[threading.Thread] = attrs.field(factory=list, init=False)

    @property
    def address(self) -> str:
        """Where browsers connect."""
        host, port = self.listener.getsockname()
        return f"{host}:{port}"

    def go_down(self) -> None:
        """Break every connection, and those that come."""
        with self._lock:
            self._is_up = False
            for one in self._open:
                _shut(one)

    def break_after(self, count: int) -> None:
        """Go down once browsers have sent `count` bytes more."""
        with self._lock:
            self._left = count

    def _count(self, size: int) -> None:
        with self._lock:
            self._left -= size
            is_over = self._left < 0
            if is_over:
                self._left = math.inf
        if is_over:
            self.go_down()

    def come_up(self) -> None:
        with self._lock:
            self._is_up = True

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                break
            self._start(self._connect, client)
        self.go_down()
        for thread in self._threads:
            thread.join()

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _connect(self, client: socket.socket) -> None:
        host, _, port = self.target.rpartition(":")
        with contextlib.closing(client):
            try:
                server = socket.create_connection((host, int(port)))
            except OSError:
                return
            with contextlib.closing(server):
                with self._lock:
                    if not self._is_up:
                        return
                    self._open |= {client, server}
                up = threading.Thread(target=_pump, args=(client, server, self._count))
                up.start()
                _pump(server, client)
                up.join()
                with self._lock:
                    self._open -= {client, server}


def _pump(
    source: socket.socket, sink: socket.socket, count: Callable[[int], None] = lambda size: None
) -> None:
    """Pass bytes on until one end is gone; then both are."""
    with contextlib.suppress(OSError):
        while data := source.recv(_PIECE):
            sink.sendall(data)
            count(len(data))
    _shut(source)
    _shut(sink)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def network(target: str) -> Iterator[Network]:
    """Run a network to `target`, up at first, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Network(target, listener)
        thread = threading.Thread(target=made.serve)
        thread.start()
        try:
            yield made
        finally:
            _shut(listener)
            thread.join()
