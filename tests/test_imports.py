"""Who may import whom: the rooms of the house as a table, and a walk over every import in `fawa/`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[1]


def names(text: str) -> tuple[str, ...]:
    """Return the words of `text`; each stands for what lies below it too, `trio` for `trio.lowlevel`."""
    return tuple(text.split())


#: All of the standard library that a pure room gets: no clock, no randomness, no I/O, no threads.
PURE = names(
    "__future__ abc base64 binascii bisect collections copy dataclasses enum functools hashlib heapq hmac "
    "http.HTTPStatus itertools json math operator re string struct types typing unicodedata urllib.parse zlib"
)
#: What other rooms do not get of it: trio is the only event loop, and every import is in sight of this test.
BANNED = names("asyncio importlib runpy")


@attrs.frozen
class Room:
    """What the modules of one package may import beside that package itself."""

    #: Other modules of fawa.
    fawa: tuple[str, ...] = attrs.field(converter=names, default="")
    #: Modules of fawa that are imported for type annotations alone, under `TYPE_CHECKING`.
    types: tuple[str, ...] = attrs.field(converter=names, default="")
    #: Third-party libraries.
    libraries: tuple[str, ...] = attrs.field(converter=names, default="")
    #: The standard library but for `BANNED`; a pure room gets only `PURE`.
    pure: bool = False


#: The longest matching name counts. Rooms with I/O may log: `fawa.ops` imports nothing of fawa, so that is no
#: call upwards.
ROOMS = {
    "fawa": Room(),
    "fawa.proto": Room(libraries="google.protobuf grpclib"),
    "fawa.rpc": Room(
        pure=True,
        fawa="fawa.proto",
        libraries="attrs google.protobuf google.rpc grpclib.const grpclib.exceptions msgspec multidict",
    ),
    "fawa.board": Room(pure=True, fawa="fawa.proto", libraries="attrs msgspec"),
    "fawa.net": Room(fawa="fawa.ops.logging", types="fawa.rpc", libraries="attrs trio"),
    "fawa.net.engine": Room(fawa="fawa.net", libraries="attrs zttp"),
    "fawa.net.engine_http1": Room(fawa="fawa.net", libraries="zttp"),
    "fawa.net.quic_core": Room(fawa="fawa.net", libraries="aioquic pylsqpack"),
    "fawa.net.quic_receive": Room(fawa="fawa.net", libraries="aioquic cryptography"),
    "fawa.net.quic_send": Room(fawa="fawa.net", libraries="aioquic"),
    "fawa.net.quic_engine": Room(fawa="fawa.net", libraries="aioquic"),
    "fawa.net.quic_client": Room(fawa="fawa.net", libraries="aioquic attrs cryptography"),
    "fawa.net.quic_packets": Room(fawa="fawa.net", libraries="aioquic attrs"),
    "fawa.net.websocket": Room(fawa="fawa.net", libraries="attrs trio wsproto"),
    "fawa.net.tls": Room(fawa="fawa.net fawa.ops.logging", libraries="attrs cryptography trio"),
    "fawa.rooms": Room(
        fawa="fawa.board fawa.ops.logging fawa.storage.base",
        libraries="attrs trio",
    ),
    "fawa.rooms.tokens": Room(pure=True),
    "fawa.calls": Room(
        fawa="fawa.rpc fawa.net.exchange fawa.net.router fawa.ops.logging",
        libraries="attrs google.protobuf grpclib multidict trio",
    ),
    "fawa.services": Room(
        fawa="fawa.proto fawa.rpc.stream fawa.net.exchange fawa.net.router fawa.ops.logging fawa.ops.meters "
        "fawa.storage.base fawa.storage.leases fawa.storage.lifecycle fawa.storage.signing "
        "fawa.storage.watching",
        libraries="attrs google.protobuf grpclib trio",
    ),
    # The whiteboard's.
    "fawa.services.board": Room(
        fawa="fawa.rooms fawa.services fawa.storage.base fawa.storage.watching fawa.ops.meters",
        libraries="attrs trio",
    ),
    "fawa.services.admission": Room(
        fawa="fawa.rooms fawa.services fawa.storage.base fawa.ops.logging", libraries="attrs trio"
    ),
    "fawa.services.canva": Room(
        fawa="fawa.rooms fawa.services fawa.net.exchange fawa.net.router fawa.net.websocket "
        "fawa.net.webtransport",
        libraries="attrs msgspec trio",
    ),
    "fawa.services.canva_client": Room(
        fawa="fawa.board fawa.rooms fawa.services fawa.net.exchange fawa.storage.base",
        libraries="attrs trio",
    ),
    "fawa.services.canva_session": Room(
        fawa="fawa.board fawa.rooms fawa.services fawa.net.exchange fawa.net.webtransport",
        libraries="attrs trio",
    ),
    "fawa.services.canva_socket": Room(
        fawa="fawa.board fawa.rooms fawa.services fawa.net.exchange fawa.net.websocket fawa.storage.base",
        libraries="attrs trio",
    ),
    "fawa.services.canvax": Room(
        fawa="fawa.board fawa.rooms fawa.services fawa.net.exchange fawa.proto fawa.rpc.stream",
        libraries="attrs grpclib multidict trio",
    ),
    "fawa.services.documents": Room(pure=True),
    "fawa.services.passwords": Room(pure=True),
    "fawa.services.ratelimit": Room(pure=True, libraries="attrs"),
    "fawa.services.wellknown": Room(
        fawa="fawa.services fawa.net.exchange fawa.net.router", libraries="attrs msgspec"
    ),
    "fawa.services.page": Room(
        fawa="fawa.services fawa.net.exchange fawa.net.router", libraries="attrs segno trio"
    ),
    "fawa.storage": Room(fawa="fawa.ops.logging", libraries="attrs trio"),
    "fawa.storage.s3_client": Room(fawa="fawa.storage fawa.ops.logging", libraries="attrs httpcore trio"),
    "fawa.storage.sigv4": Room(pure=True, libraries="attrs"),
    "fawa.storage.redis_url": Room(pure=True, libraries="attrs"),
    "fawa.storage.redis": Room(fawa="fawa.storage", libraries="attrs"),
    "fawa.storage.redis_errors": Room(fawa="fawa.storage", libraries="coredis"),
    "fawa.storage.redis_uploads": Room(fawa="fawa.storage", libraries="attrs"),
    "fawa.storage.redis_link": Room(fawa="fawa.storage fawa.ops.logging", libraries="attrs coredis trio"),
    # Asks for metrics and readiness come by the same listener and router as everything else.
    "fawa.ops.admin": Room(fawa="fawa.net.exchange fawa.net.router fawa.ops", libraries="attrs msgspec trio"),
    "fawa.ops.meters": Room(fawa="fawa.net.exchange fawa.ops", libraries="attrs trio"),
    "fawa.ops.exposition": Room(fawa="fawa.ops", libraries="prometheus_client"),
    # The doctor is a client of the daemon that knows its settings.
    "fawa.ops.doctor": Room(
        fawa="fawa.client fawa.config fawa.net.quic_packets fawa.net.tls fawa.net.udp fawa.ops.descriptors "
        "fawa.proto fawa.storage.base",
        libraries="attrs grpclib msgspec trio",
    ),
    "fawa.ops.tracing": Room(fawa="fawa.net.exchange fawa.net.router", libraries="opentelemetry trio"),
    "fawa.ops": Room(libraries="attrs msgspec rich structlog trio"),
    "fawa.completions": Room(libraries="shtab"),
    "fawa.client": Room(
        fawa="fawa.completions fawa.proto fawa.rpc fawa.net fawa.restarts",
        libraries="attrs google.protobuf grpclib multidict trio",
    ),
    # A client of the whiteboard shares its words with the server.
    "fawa.client.board": Room(
        fawa="fawa.client fawa.board.events fawa.net", libraries="attrs grpclib msgspec trio"
    ),
    "fawa.client.board.documents": Room(pure=True, fawa="fawa.board.events", libraries="attrs msgspec"),
    "fawa.client.board.session": Room(
        pure=True, fawa="fawa.board.events fawa.client.board.documents", libraries="attrs msgspec"
    ),
    "fawa.client.board.svg": Room(pure=True, fawa="fawa.client.board.documents"),
    "fawa.client.board.websocket": Room(fawa="fawa.client", libraries="trio wsproto"),
    "fawa.client.sealing": Room(pure=True, libraries="cryptography"),
    "fawa.client.progress": Room(fawa="fawa.client", libraries="rich"),
    "fawa.config": Room(fawa="fawa.net.tls fawa.storage.redis_url", libraries="attrs yaml"),
    "fawa.restarts": Room(pure=True, libraries="attrs"),
    "fawa.wiring": Room(fawa="fawa", libraries="attrs"),
    "fawa.supervisor": Room(fawa="fawa", libraries="attrs grpclib structlog trio"),
    "fawa.cli": Room(fawa="fawa", libraries="attrs trio"),
}

#: Services and backends; other modules know only the interfaces that these fulfil.
CONCRETE = names(
    "fawa.services.greet fawa.services.file fawa.services.board fawa.services.canva fawa.services.canvax "
    "fawa.storage.filesystem fawa.storage.s3 fawa.storage.sqlite fawa.storage.boards fawa.storage.uploads "
    "fawa.storage.redis fawa.storage.redis_uploads"
)
#: The only module that names those.
TOP = names("fawa.wiring")


@attrs.frozen
class Import:
    """One imported name, in full: `from fawa.net import engine` imports `fawa.net.engine`."""

    line: int
    name: str
    for_types: bool


def covers(names: tuple[str, ...], name: str) -> bool:
    """Whether one of `names` is `name` or lies above it."""
    return any(name == above or name.startswith(above + ".") for above in names)


def room_of(module: str) -> tuple[str, Room] | None:
    """Return the room a module lies in; `fawa` itself has only its `__init__`."""
    found = [name for name in ROOMS if covers((name,), module) and (name != "fawa" or module == "fawa")]
    name = max(found, key=len, default=None)
    return None if name is None else (name, ROOMS[name])


def imports_of(tree: ast.AST, module: str, *, is_package: bool, for_types: bool = False) -> Iterator[Import]:
    """Iterate over every import below `tree`, wherever in the source it stands."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield Import(node.lineno, alias.name, for_types)
            case ast.ImportFrom():
                above = module.split(".")
                above = above[: len(above) - node.level + is_package] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    yield Import(node.lineno, f"{source}.{alias.name}", for_types)
            case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                for inner in node.body:
                    block = ast.Module([inner], [])
                    yield from imports_of(block, module, is_package=is_package, for_types=True)
                for inner in node.orelse:
                    block = ast.Module([inner], [])
                    yield from imports_of(block, module, is_package=is_package, for_types=for_types)
            case _:
                yield from imports_of(node, module, is_package=is_package, for_types=for_types)


def is_allowed(module: str, name: str, room: Room, found: Import) -> bool:
    """Whether a module of the room `name` may import this."""
    top = found.name.partition(".")[0]
    if covers(CONCRETE, found.name) and not covers(TOP, module):
        return False
    if top == "fawa":
        return (
            found.name == "fawa.__version__"
            or covers((name, *room.fawa), found.name)
            or (found.for_types and covers(room.types, found.name))
        )
    if top in sys.stdlib_module_names:
        return covers(PURE, found.name) if room.pure else not covers(BANNED, found.name)
    return covers(room.libraries, found.name)


def complaints(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return a line for each import that breaks the table."""
    found = room_of(module)
    if found is None:
        return [f"{module}: lies in no room; add one to the table in tests/test_imports.py"]
    name, room = found
    return [
        f"{module}:{one.line}: {name} may not import {one.name}"
        for one in imports_of(ast.parse(source), module, is_package=is_package)
        if not is_allowed(module, name, room, one)
    ]


def test_every_import_in_fawa_keeps_to_the_table() -> None:
    broken: list[str] = []
    seen = set()
    for path in sorted((ROOT / "fawa").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        seen.add(module)
        broken += complaints(path.read_text("utf-8"), module, is_package=is_package)
    assert {"fawa", "fawa.rpc", "fawa.net.engine", "fawa.proto.greet.v1.greet_pb2"} <= seen
    assert broken == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        # A pure room knows no event loop, clock, randomness, file or thread, however the import is written.
        ("fawa.rpc.seed", "import trio"),
        ("fawa.rpc.seed", "import time"),
        ("fawa.rpc.seed", "from time import monotonic"),
        ("fawa.rpc.seed", "import json, random"),
        ("fawa.rpc.seed", "import os.path as paths"),
        ("fawa.rpc.seed", "def f():\n    if f:\n        import socket"),
        ("fawa.rpc.seed", "try:\n    import ssl\nexcept ImportError:\n    pass"),
        ("fawa.rpc.seed", "if TYPE_CHECKING:\n    import trio"),
        ("fawa.rpc.seed", "if not TYPE_CHECKING:\n    import trio"),
        ("fawa.rpc.seed", "import http.client"),
        ("fawa.rpc.seed", "from grpclib.server import Stream"),
        ("fawa.board.seed", "from secrets import token_bytes"),
        # No layer calls up.
        ("fawa.rpc.seed", "from fawa.net.exchange import Exchange"),
        ("fawa.rpc.seed", "from ..net import exchange"),
        ("fawa.net.seed", "from fawa.rpc.stream import Stream"),
        ("fawa.net.seed", "from fawa.services.base import Service"),
        ("fawa.calls.seed", "from fawa.net.http2 import H2Connection"),
        ("fawa.calls.seed", "import fawa.net"),
        ("fawa.storage.seed", "import fawa.services.base"),
        ("fawa.client.seed", "from fawa.supervisor import Supervisor"),
        ("fawa.services.greet", "from fawa.cli import fawad"),
        # A concrete backend or service is named by the supervisor and the commands alone.
        ("fawa.services.file", "from fawa.storage.sqlite import SqliteMetadata"),
        ("fawa.services.file", "from fawa.storage import filesystem"),
        ("fawa.services.file", "from fawa.services.greet import Greet"),
        ("fawa.storage.sqlite", "from fawa.storage.filesystem import FilesystemContent"),
        ("fawa.client.seed", "from fawa.services.greet import Greet"),
        # The engines alone know the HTTP parser; nobody knows asyncio.
        ("fawa.net.http2", "import zttp"),
        ("fawa.net.engine", "import trio"),
        ("fawa.net.http1", "from wsproto.frame_protocol import FrameDecoder"),
        ("fawa.storage.s3", "import asyncio"),
        ("fawa.cli", "import importlib"),
        # Every module has a room.
        ("fawa.attic.seed", "import math"),
        ("fawa.attic", "import math"),
        ("fawa", "import trio"),
    ],
)
def test_an_import_that_breaks_the_table_is_seen(module: str, line: str) -> None:
    # The harmless lines around it show that a complaint is about the one line only.
    source = f"from __future__ import annotations\nfrom typing import TYPE_CHECKING\n{line}\nimport math\n"
    assert len(complaints(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("fawa.rpc.seed", "import zlib, struct"),
        ("fawa.rpc.seed", "from . import stream"),
        ("fawa.rpc.seed", "from fawa.proto.greet.v1 import greet_pb2"),
        ("fawa.rpc.seed", "from http import HTTPStatus"),
        ("fawa.net.seed", "if TYPE_CHECKING:\n    from fawa.rpc.stream import Stream"),
        ("fawa.net.engine", "from .exchange import Headers"),
        ("fawa.services.file", "from fawa.storage import base"),
        ("fawa.ops.seed", "from fawa import __version__"),
        ("fawa.wiring", "from fawa.storage.sqlite import SqliteMetadata"),
    ],
)
def test_an_import_within_the_table_is_not(module: str, line: str) -> None:
    assert complaints(line, module) == []


def test_relative_imports_are_resolved_from_packages_and_modules() -> None:
    source = ast.parse("from . import a\nfrom .b import c\nfrom .. import d")
    in_module = [one.name for one in imports_of(source, "fawa.net.http2", is_package=False)]
    in_package = [one.name for one in imports_of(source, "fawa.net", is_package=True)]
    assert in_module == in_package == ["fawa.net.a", "fawa.net.b.c", "fawa.d"]
