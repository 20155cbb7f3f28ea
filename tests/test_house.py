"""The house itself: the frozen contract, the checks that guard it, and the pins."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    FieldDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROTOCOLS = ROOT / "protocols"

# What clients in the world were built against: (request, kind, response) of each method, and
# (number, type, oneof) of each field. protocols/contract.binpb holds the same for `buf breaking`; this table
# says it in words, so that the frozen file cannot be replaced unnoticed. Nothing in it ever changes.

SERVICES = {
    "greet.v1.GreetService": {
        "SayHello": ("greet.v1.SayHelloRequest", "unary", "greet.v1.SayHelloResponse"),
        "GreetStream": ("greet.v1.GreetStreamRequest", "server stream", "greet.v1.GreetStreamResponse"),
        "GreetClientStream": (
            "greet.v1.GreetClientStreamRequest",
            "client stream",
            "greet.v1.GreetClientStreamResponse",
        ),
        "GreetBidiStream": ("greet.v1.GreetBidiStreamRequest", "bidi", "greet.v1.GreetBidiStreamResponse"),
    },
    "file.v1.FileService": {
        "SendFile": ("file.v1.SendFileRequest", "client stream", "file.v1.SendFileResponse"),
        "ReceiveFile": ("file.v1.ReceiveFileRequest", "server stream", "file.v1.ReceiveFileResponse"),
        "GetDownloadURL": ("file.v1.GetDownloadURLRequest", "unary", "file.v1.GetDownloadURLResponse"),
    },
    "canva.v1.CanvaService": {
        "Collaborate": ("canva.v1.ClientDrawRequest", "bidi", "canva.v1.ClientDrawResponse"),
    },
}

MESSAGES = {
    "greet.v1.SayHelloRequest": {"name": (1, "string", "")},
    "greet.v1.SayHelloResponse": {"resp": (1, "string", "")},
    "greet.v1.GreetStreamRequest": {"name": (1, "string", "")},
    "greet.v1.GreetStreamResponse": {"part": (1, "string", "")},
    "greet.v1.GreetClientStreamRequest": {"name": (1, "string", "")},
    "greet.v1.GreetClientStreamResponse": {"summary": (1, "string", "")},
    "greet.v1.GreetBidiStreamRequest": {"name": (1, "string", "")},
    "greet.v1.GreetBidiStreamResponse": {"echo": (1, "string", "")},
    "file.v1.FileInfo": {"name": (1, "string", ""), "size": (2, "int64", "")},
    "file.v1.SendFileRequest": {
        "info": (1, "file.v1.FileInfo", "payload"),
        "chunk_data": (2, "bytes", "payload"),
    },
    "file.v1.SendFileResponse": {
        "success": (1, "bool", ""),
        "message": (2, "string", ""),
        "randomkey": (3, "string", ""),
    },
    "file.v1.ReceiveFileRequest": {"randomkey": (1, "string", "")},
    "file.v1.ReceiveFileResponse": {
        "filename": (1, "string", ""),
        "file_size": (2, "int64", "payload"),
        "chunk_data": (3, "bytes", "payload"),
    },
    "file.v1.GetDownloadURLRequest": {"randomkey": (1, "string", "")},
    "file.v1.GetDownloadURLResponse": {"url": (1, "string", ""), "filename": (2, "string", "")},
    "canva.v1.DrawEvent": {
        "type": (1, "string", ""),
        "color": (2, "string", ""),
        "size": (3, "int32", ""),
        "prev_x": (4, "int32", ""),
        "prev_y": (5, "int32", ""),
        "curr_x": (6, "int32", ""),
        "curr_y": (7, "int32", ""),
        "client_id": (8, "string", ""),
    },
    "canva.v1.History": {"events": (1, "repeated canva.v1.DrawEvent", "")},
    "canva.v1.ClientDrawRequest": {"draw_event": (1, "canva.v1.DrawEvent", "message")},
    "canva.v1.ClientDrawResponse": {
        "draw_event": (1, "canva.v1.DrawEvent", "message"),
        "initial_history": (2, "canva.v1.History", "message"),
    },
}

#: Methods that Connect clients may call with GET.
NO_SIDE_EFFECTS = {"greet.v1.GreetService.SayHello", "file.v1.FileService.GetDownloadURL"}


def frozen() -> FileDescriptorSet:
    """Return the frozen contract; buf's image format is a `FileDescriptorSet` with extensions."""
    return FileDescriptorSet.FromString((PROTOCOLS / "contract.binpb").read_bytes())


def kind(method: MethodDescriptorProto) -> str:
    kinds = {(False, False): "unary", (False, True): "server stream", (True, False): "client stream"}
    return kinds.get((method.client_streaming, method.server_streaming), "bidi")


def type_of(field: FieldDescriptorProto) -> str:
    # A type is named by its message, or else as its enum value says: TYPE_INT32 is int32.
    name = field.type_name.lstrip(".") or FieldDescriptorProto.Type.Name(field.type)[5:].lower()
    return f"repeated {name}" if field.label == FieldDescriptorProto.LABEL_REPEATED else name


def test_the_frozen_contract_has_every_service_and_method() -> None:
    services = {
        f"{file.package}.{service.name}": {
            method.name: (method.input_type.lstrip("."), kind(method), method.output_type.lstrip("."))
            for method in service.method
        }
        for file in frozen().file
        for service in file.service
    }
    assert services == SERVICES


def test_the_frozen_contract_has_every_message_and_field() -> None:
    messages = {
        f"{file.package}.{message.name}": {
            field.name: (
                field.number,
                type_of(field),
                message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else "",
            )
            for field in message.field
        }
        for file in frozen().file
        for message in file.message_type
    }
    assert messages == MESSAGES


def test_the_frozen_contract_says_which_methods_have_no_side_effects() -> None:
    methods = {
        f"{file.package}.{service.name}.{method.name}"
        for file in frozen().file
        for service in file.service
        for method in service.method
        if method.options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    }
    assert methods == NO_SIDE_EFFECTS


def breaking(protocols: Path) -> str:
    """Return what `buf breaking` says about a folder of .proto files, "" if nothing."""
    buf = Path(sys.executable).with_name("buf")
    command = [str(buf), "breaking", str(protocols), "--against", str(PROTOCOLS / "contract.binpb")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == (100 if done.stdout else 0), done.stderr
    return str(done.stdout)


@pytest.fixture
def protocols(tmp_path: Path) -> Path:
    """A copy of the protocols to change."""
    copy = tmp_path / "protocols"
    shutil.copytree(PROTOCOLS, copy, ignore=shutil.ignore_patterns("contract.binpb"))
    return copy


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), "utf-8")


def test_the_protocols_keep_the_contract(protocols: Path) -> None:
    assert breaking(protocols) == ""


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        pytest.param("greet/v1/greet.proto", "string resp = 1", "string resp = 2", id="a number"),
        pytest.param("greet/v1/greet.proto", "string echo = 1", "string reply = 1", id="a name"),
        pytest.param("file/v1/file.proto", "  int64 size = 2", "  int32 size = 2", id="a type"),
        pytest.param("file/v1/file.proto", "bool success = 1;", "", id="a field gone"),
        pytest.param("canva/v1/canva.proto", "repeated DrawEvent", "DrawEvent", id="a label"),
        pytest.param(
            "greet/v1/greet.proto",
            "(GreetStreamRequest) returns (stream",
            "(GreetStreamRequest) returns (",
            id="a kind",
        ),
        pytest.param("file/v1/file.proto", "rpc GetDownloadURL", "rpc GetDownloadUrl", id="a method's name"),
        pytest.param(
            "canva/v1/canva.proto", "service CanvaService", "service BoardService", id="a service's name"
        ),
        pytest.param("canva/v1/canva.proto", "package canva.v1", "package canva.v2", id="a package"),
        pytest.param("file/v1/file.proto", "NO_SIDE_EFFECTS", "IDEMPOTENT", id="side effects"),
    ],
)
def test_a_change_of_the_contract_is_seen(protocols: Path, file: str, old: str, new: str) -> None:
    replace(protocols / file, old, new)
    assert file in breaking(protocols)


def test_an_addition_to_the_contract_is_free(protocols: Path) -> None:
    greet = protocols / "greet/v1/greet.proto"
    replace(greet, "string resp = 1;", "string resp = 1;\n  optional string language = 2;")
    replace(
        greet,
        "service GreetService {",
        "service GreetService {\n  rpc Wave(WaveRequest) returns (WaveResponse);",
    )
    greet.write_text(
        greet.read_text("utf-8") + "\nmessage WaveRequest {}\nmessage WaveResponse {}\n", "utf-8"
    )
    assert breaking(protocols) == ""


def pins() -> dict[str, str]:
    """Return the versions in scripts/constraints.txt by name."""
    lines = (ROOT / "scripts" / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [re.fullmatch(r"([\w.-]+)==([\w.+!-]+)", line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(pair[1]): pair[2] for pair in pairs if pair is not None}


def test_every_line_of_the_constraints_is_an_exact_pin() -> None:
    lines = (ROOT / "scripts" / "constraints.txt").read_text("utf-8").splitlines()
    assert len(pins()) == len([line for line in lines if not line.startswith("#")])


def test_everything_fawa_needs_is_pinned_and_installed_as_pinned() -> None:
    pinned = pins()
    found: dict[str, str] = {}
    waiting = [Requirement("fawa[dev]")]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name != "fawa" and found.get(name):
            continue
        found[name] = metadata.version(name)
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            extras = ["", *wanted.extras]
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    del found["fawa"]
    assert found == {name: pinned.get(name, "no pin: run scripts/pin") for name in found}
