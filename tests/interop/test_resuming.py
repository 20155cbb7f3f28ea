"""Interrupted uploads at a real daemon: two at once with grpcio, and Connect's JSON."""

from __future__ import annotations

import json
import struct
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc  # type: ignore[import-untyped]

from tests.daemon import PATIENCE
from tests.interop import expect
from tests.interop.grpcio_channel import channel_to
from tests.interop.target import Target
from tests.interop.test_grpcio_files import download

Code = grpc.StatusCode


def test_two_that_finish_at_once(plain: Target, file: Any, file_grpc: Any) -> None:
    with channel_to(plain) as one, channel_to(plain) as other:
        stubs = [file_grpc.FileServiceStub(channel) for channel in (one, other)]

        def finish(stub: Any, info: Any) -> tuple[Any, str]:
            try:
                answer = stub.SendFile(iter([file.SendFileRequest(info=info)]), timeout=PATIENCE)
            except grpc.RpcError as error:
                return error.code(), ""
            return Code.OK, answer.randomkey

        for number in range(20):
            data = expect.content(10_000, seed=number)
            upload_id = stubs[0].StartUpload(file.StartUploadRequest(name="a")).upload_id
            first = [
                file.SendFileRequest(info=file.FileInfo(upload_id=upload_id)),
                file.SendFileRequest(chunk_data=data),
            ]
            assert stubs[0].SendFile(iter(first), timeout=PATIENCE).offset == len(data)
            info = file.FileInfo(upload_id=upload_id, offset=len(data), complete=True)
            with ThreadPoolExecutor(2) as pool:
                ended = list(pool.map(finish, stubs, [info, info]))
            assert {code for code, _ in ended} == {Code.OK, Code.ABORTED}
            status = stubs[1].GetUpload(file.GetUploadRequest(upload_id=upload_id), timeout=PATIENCE)
            assert {key for code, key in ended if code is Code.OK} == {status.file.randomkey}
            assert download(stubs[0], file, status.file.randomkey)[1] == data


# Connect, as JSON


def ask(target: Target, method: str, message: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{target.url}/file.v1.FileService/{method}",
        json.dumps(message).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def stream(target: Target, *messages: Any) -> list[Any]:
    """Call SendFile; returns its messages, the end of the stream last."""
    bodies = [json.dumps(message).encode() for message in messages]
    request = urllib.request.Request(
        f"{target.url}/file.v1.FileService/SendFile",
        b"".join(struct.pack(">BI", 0, len(body)) + body for body in bodies),
        {"content-type": "application/connect+json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        rest = response.read()
    answers = []
    while rest:
        size = struct.unpack(">BI", rest[:5])[1]
        answers.append(json.loads(rest[5 : 5 + size]))
        rest = rest[5 + size :]
    return answers


def test_connect_json(plain: Target) -> None:
    status, begun = ask(plain, "StartUpload", {"name": "a.txt", "size": "6"})
    assert status == 200
    assert begun.keys() == {"uploadId", "expiresAt", "ownerToken"}
    upload = {"uploadId": begun["uploadId"]}

    (answer, end) = stream(plain, {"info": upload}, {"chunkData": "YWJj"})
    assert (answer["offset"], end) == ("3", {})
    status, told = ask(plain, "GetUpload", upload)
    assert (status, told["offset"], told["size"]) == (200, "3", "6")

    (end,) = stream(plain, {"info": upload | {"offset": "2"}}, {"chunkData": "eA=="})
    assert end["error"]["code"] == "failed_precondition"
    (detail,) = end["error"]["details"]
    assert (detail["type"], detail["debug"]) == ("file.v1.UploadOffset", {"offset": "3"})

    (answer, end) = stream(plain, {"info": upload | {"offset": "3"}}, {"chunkData": "ZGVm"})
    assert (answer["success"], answer["offset"], end) == (True, "6", {})
    assert ask(plain, "GetUpload", upload)[1]["file"] == answer

    status, begun = ask(plain, "StartUpload", {"name": "a.txt"})
    assert ask(plain, "CancelUpload", {"uploadId": begun["uploadId"]}) == (200, {})
    status, error = ask(plain, "GetUpload", {"uploadId": begun["uploadId"]})
    assert (status, error["code"]) == (404, "not_found")
