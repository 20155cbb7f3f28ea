"""Methods from generated bases."""

from __future__ import annotations

import pytest

import fawa.client
from fawa.client import methods, rpc
from fawa.proto.file.v1.file_grpc import FileServiceBase
from fawa.proto.file.v1.file_pb2 import SendFileRequest, SendFileResponse
from fawa.rpc.dialect import Kind
from fawa.services.greet import GreetRpc


def test_all_methods_of_a_service() -> None:
    found = methods(FileServiceBase)
    assert {name: (each.method.path, each.method.kind) for name, each in found.items()} == {
        "SendFile": ("/file.v1.FileService/SendFile", Kind.CLIENT_STREAM),
        "ReceiveFile": ("/file.v1.FileService/ReceiveFile", Kind.SERVER_STREAM),
        "GetDownloadURL": ("/file.v1.FileService/GetDownloadURL", Kind.UNARY),
        "StartUpload": ("/file.v1.FileService/StartUpload", Kind.UNARY),
        "GetUpload": ("/file.v1.FileService/GetUpload", Kind.UNARY),
        "CancelUpload": ("/file.v1.FileService/CancelUpload", Kind.UNARY),
        "DeleteFile": ("/file.v1.FileService/DeleteFile", Kind.UNARY),
    }


def test_one_method() -> None:
    method = rpc(FileServiceBase.SendFile).method
    assert (method.request_type, method.response_type) == (SendFileRequest, SendFileResponse)
    assert rpc(FileServiceBase.SendFile) is methods(FileServiceBase)["SendFile"]


def test_idempotency_is_known() -> None:
    assert rpc(FileServiceBase.GetDownloadURL).method.no_side_effects
    assert not rpc(FileServiceBase.ReceiveFile).method.no_side_effects


def test_a_subclass_has_the_same_methods() -> None:
    assert rpc(GreetRpc.SayHello).method.path == "/greet.v1.GreetService/SayHello"


def test_what_is_no_method() -> None:
    with pytest.raises(KeyError):
        rpc(FileServiceBase.__mapping__)  # type: ignore[arg-type]


def test_the_package_has_what_it_says() -> None:
    for name in fawa.client.__all__:
        assert getattr(fawa.client, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fawa.client.nonsense
