"""`buf curl`: connect-go's client from the command line, with a local schema and with reflection."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop import expect
from tests.interop.programs import program, run
from tests.interop.target import Target

#: `buf curl` exits with eight times the code of the RPC error.
EXIT = {"INVALID_ARGUMENT": 3 * 8, "NOT_FOUND": 5 * 8, "UNIMPLEMENTED": 12 * 8}

#: Port, protocol and HTTP version. gRPC needs version 2; on the TLS port ALPN chooses it for all.
STYLES = [
    ("plain", "connect-h1"),
    ("plain", "connect-h2"),
    ("plain", "grpc-h2"),
    ("plain", "grpcweb-h1"),
    ("plain", "grpcweb-h2"),
    ("tls", "connect-h2"),
    ("tls", "grpc-h2"),
    ("tls", "grpcweb-h2"),
]


@pytest.fixture(params=STYLES, ids="-".join)
def style(request: pytest.FixtureRequest) -> tuple[Target, str]:
    port, spoken = request.param
    return request.getfixturevalue(port), spoken


def documents(text: bytes) -> Iterator[Any]:
    """Split JSON documents that follow each other."""
    rest = text.decode().strip()
    while rest:
        document, end = json.JSONDecoder().raw_decode(rest)
        yield document
        rest = rest[end:].lstrip()


def flags(target: Target, style: str, *, reflection: bool = False) -> list[str]:
    protocol, _, version = style.partition("-")
    chosen = ["--protocol", protocol]
    if target.certificate:
        chosen += ["--cacert", str(target.certificate)]
    elif version == "h2":
        chosen += ["--http2-prior-knowledge"]
    return chosen if reflection else [*chosen, "--schema", "protocols"]


def call(target: Target, options: list[str], path: str, *messages: dict[str, Any]) -> list[Any]:
    """Return the answers to messages; fails when the call does."""
    data = "\n".join(json.dumps(message) for message in messages)
    ended = run(program("buf"), "curl", *options, "-d", "@-", target.url + path, stdin=data)
    assert ended.returncode == 0, ended.stderr.decode()
    return list(documents(ended.stdout))


def names(*said: str) -> list[dict[str, str]]:
    return [{"name": name} for name in said]


def converse(target: Target, options: list[str]) -> None:
    two = ("Zoë", "李雷 🦊")
    assert call(target, options, expect.UNARY, *names("Zoë")) == [{"resp": expect.greeting("Zoë")}]
    parts = call(target, options, expect.SERVER_STREAM, *names("Zoë"))
    assert [message["part"] for message in parts] == expect.parts("Zoë")
    assert call(target, options, expect.CLIENT_STREAM, *names(*two)) == [{"summary": expect.summary(*two)}]
    echoes = call(target, options, expect.BIDI, *names(*two))
    assert [message["echo"] for message in echoes] == [expect.greeting(name) for name in two]


def test_all_four_kinds_with_a_schema(style: tuple[Target, str]) -> None:
    target, spoken = style
    converse(target, flags(target, spoken))


@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
@pytest.mark.parametrize("protocol", ["connect", "grpc", "grpcweb"])
def test_all_four_kinds_with_reflection(plain: Target, protocol: str, version: str) -> None:
    options = flags(plain, f"{protocol}-h2", reflection=True)
    converse(plain, [*options, "--reflect-protocol", version])


@pytest.mark.parametrize("protocol", ["connect", "grpc", "grpcweb"])
def test_methods_that_reflection_lists(target: Target, protocol: str) -> None:
    options = flags(target, f"{protocol}-h2", reflection=True)
    listed = run(program("buf"), "curl", *options, "--list-methods", target.url)
    assert listed.returncode == 0, listed.stderr.decode()
    methods = {expect.UNARY, expect.SERVER_STREAM, expect.CLIENT_STREAM, expect.BIDI, expect.SEND_FILE}
    assert {f"/{line}" for line in listed.stdout.decode().split()} >= methods


def test_files_and_errors(style: tuple[Target, str]) -> None:
    target, spoken = style
    options = flags(target, spoken)
    data = expect.content(3_000)
    chunks = [base64.b64encode(piece).decode() for piece in (data[:1000], data[1000:])]
    upload: list[dict[str, Any]] = [
        {"info": {"name": "a.bin", "size": len(data)}},
        *({"chunkData": chunk} for chunk in chunks),
    ]
    (sent,) = call(target, options, expect.SEND_FILE, *upload)
    first, *rest = call(target, options, expect.RECEIVE_FILE, {"randomkey": sent["randomkey"]})
    assert {"filename": "a.bin", "fileSize": str(len(data))}.items() <= first.items()
    assert b"".join(base64.b64decode(message["chunkData"]) for message in rest) == data

    for path, message, code in [
        (expect.DOWNLOAD_URL, {"randomkey": "nobody"}, "NOT_FOUND"),
        (expect.DOWNLOAD_URL, {}, "INVALID_ARGUMENT"),
        (expect.RECEIVE_FILE, {"randomkey": "nobody"}, "NOT_FOUND"),
        (expect.SEND_FILE, {"chunkData": chunks[0]}, "INVALID_ARGUMENT"),
        (expect.SEND_FILE, {"info": {"name": "../a", "size": "0"}}, "INVALID_ARGUMENT"),
    ]:
        ended = run(program("buf"), "curl", *options, "-d", json.dumps(message), target.url + path)
        assert ended.returncode == EXIT[code], (path, message, ended.stderr.decode())


def test_a_method_the_server_lacks(style: tuple[Target, str], tmp_path: Path) -> None:
    target, spoken = style
    (tmp_path / "nobody.proto").write_text(
        'syntax = "proto3"; package nobody.v1; message Nothing {}'
        " service Nobody { rpc Vanish(stream Nothing) returns (Nothing);"
        " rpc Hide(Nothing) returns (Nothing); }"
    )
    options = [*flags(target, spoken, reflection=True), "--schema", str(tmp_path)]
    for method in ("Vanish", "Hide"):
        path = f"/nobody.v1.Nobody/{method}"
        ended = run(program("buf"), "curl", *options, "-d", "{}", target.url + path)
        assert ended.returncode == EXIT["UNIMPLEMENTED"], ended.stderr.decode()
