"""grpcurl: grpc-go's client from the command line, by reflection."""

from __future__ import annotations

import json

import pytest

from tests.interop import expect
from tests.interop.programs import program, run
from tests.interop.target import Target
from tests.interop.test_buf_curl import documents, names


def grpcurl(target: Target, *arguments: str, stdin: str = "") -> bytes:
    """Return what grpcurl wrote; its target goes before the last arguments, after the flags."""
    flags = ["-cacert", str(target.certificate)] if target.certificate else ["-plaintext"]
    options = ["-d", "@"] if stdin else []
    ended = run(program("grpcurl"), *flags, *options, target.address, *arguments, stdin=stdin)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout


def test_list_and_describe(target: Target) -> None:
    assert set(grpcurl(target, "list").decode().split()) >= {*expect.SERVICES, "grpc.health.v1.Health"}
    methods = grpcurl(target, "list", "greet.v1.GreetService").decode().split()
    assert [f"/greet.v1.GreetService/{method.rpartition('.')[2]}" for method in methods] == [
        expect.BIDI,
        expect.CLIENT_STREAM,
        expect.SERVER_STREAM,
        expect.UNARY,
    ]
    described = grpcurl(target, "describe", "file.v1.FileService.SendFile").decode()
    assert (
        "rpc SendFile ( stream .file.v1.SendFileRequest ) returns ( .file.v1.SendFileResponse );" in described
    )
    assert "string name = 1;" in grpcurl(target, "describe", "file.v1.FileInfo").decode()


def test_all_four_kinds(target: Target) -> None:
    def call(path: str, *said: str) -> list[dict[str, str]]:
        data = "\n".join(json.dumps(message) for message in names(*said))
        return list(documents(grpcurl(target, path.removeprefix("/"), stdin=data)))

    two = ("Zoë", "李雷 🦊")
    assert call(expect.UNARY, "Zoë") == [{"resp": expect.greeting("Zoë")}]
    assert call(expect.SERVER_STREAM, "Zoë") == [{"part": part} for part in expect.parts("Zoë")]
    assert call(expect.CLIENT_STREAM, *two) == [{"summary": expect.summary(*two)}]
    assert call(expect.BIDI, *two) == [{"echo": expect.greeting(name)} for name in two]


@pytest.mark.parametrize(
    ("method", "message", "code", "name"),
    [
        (expect.DOWNLOAD_URL, {"randomkey": "nobody"}, 5, "NotFound"),
        (expect.RECEIVE_FILE, {}, 3, "InvalidArgument"),
        (expect.SEND_FILE, {"chunkData": "AAAA"}, 3, "InvalidArgument"),
    ],
)
def test_errors(plain: Target, method: str, message: dict[str, str], code: int, name: str) -> None:
    data = json.dumps(message)
    ended = run(program("grpcurl"), "-plaintext", "-d", data, plain.address, method.removeprefix("/"))
    assert ended.returncode == 64 + code
    assert f"Code: {name}" in ended.stderr.decode()


def test_health_and_headers(target: Target) -> None:
    assert json.loads(grpcurl(target, "grpc.health.v1.Health/Check")) == {"status": "SERVING"}
    flags = ["-cacert", str(target.certificate)] if target.certificate else ["-plaintext"]
    said = run(program("grpcurl"), "-v", *flags, target.address, expect.UNARY.removeprefix("/"))
    assert ": ".join(expect.VERSION_HEADER) in said.stdout.decode()
