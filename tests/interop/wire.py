"""The RPC dialects by hand, over http.client and over h2, for what no decent client would send."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import struct
import types
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

import attrs
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from tests.daemon import PATIENCE
from tests.interop.target import Target

#: Connect's names of the codes, at the places of gRPC's numbers.
CODES: Final = (
    "ok",
    "canceled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
)

#: HTTP status of a Connect unary answer ("Error Codes" in the Connect protocol).
HTTP_STATUS: Final = {
    "ok": 200,
    "canceled": 499,
    "unknown": 500,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "data_loss": 500,
    "unauthenticated": 401,
}

Headers = Mapping[str, str]
T = TypeVar("T", bound=Message)


@attrs.frozen
class Reply:
    """An HTTP response; names of fields in lower case, the last of equal ones."""

    status: int
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str] = attrs.field(factory=dict)


class Reset(Exception):  # noqa: N818 - what it is called
    """The server reset the stream instead of answering; `code` is HTTP/2's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stream reset with code {code}")
        self.code = code


def over_http1(
    target: Target, method: str, path: str, headers: Headers, body: bytes = b"", *, finish: bool = True
) -> Reply:
    """Make one HTTP/1.1 request with a chunked body, left without its end unless it is to `finish`."""
    connection = (
        http.client.HTTPSConnection(target.address, timeout=PATIENCE, context=target.ssl_context())
        if target.certificate
        else http.client.HTTPConnection(target.address, timeout=PATIENCE)
    )
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if method == "POST":
            connection.putheader("transfer-encoding", "chunked")
        connection.endheaders()
        if method == "POST":
            # A server may have answered and closed before it has seen all: the answer counts.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for start in range(0, len(body), 65536):
                    piece = body[start : start + 65536]
                    connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                if finish:
                    connection.send(b"0\r\n\r\n")
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, fields, response.read())


@contextlib.contextmanager
def connected(target: Target, *protocols: str) -> Iterator[socket.socket]:
    """Open a connection, over TLS with these ALPN protocols on the TLS port."""
    with socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE) as raw:
        if target.certificate is None:
            yield raw
        else:
            with target.ssl_context(*protocols).wrap_socket(raw, server_hostname="127.0.0.1") as wrapped:
                yield wrapped


def over_http2(
    target: Target, method: str, path: str, headers: Headers, body: bytes = b"", *, finish: bool = True
) -> Reply:
    """Make one HTTP/2 request, its body left without an end unless it is to `finish`.

    Raises:
        Reset: the server reset the stream.

    """
    with connected(target, "h2") as sock:
        connection = _Http2(sock)
        connection.begin(target, method, path, headers, body, finish=finish)
        return connection.response()


class _Http2:
    """One connection for one request."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._conn = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="latin-1"))
        self._conn.initiate_connection()
        self._flush()
        self._reply = Reply(0, {}, b"")
        self._ended = False

    def _flush(self) -> None:
        self._sock.sendall(self._conn.data_to_send())

    def begin(
        self,
        target: Target,
        method: str,
        path: str,
        headers: Headers,
        body: bytes = b"",
        *,
        finish: bool = False,
    ) -> None:
        """Send a request, its body left without an end unless it is to `finish`."""
        scheme = "https" if target.certificate else "http"
        pseudo = [(":method", method), (":scheme", scheme), (":authority", target.address), (":path", path)]
        self._conn.send_headers(1, [*pseudo, *headers.items()], end_stream=finish and not body)
        while body and not self._ended:
            room = min(self._conn.local_flow_control_window(1), self._conn.max_outbound_frame_size, len(body))
            if room:
                piece, body = body[:room], body[room:]
                self._conn.send_data(1, piece, end_stream=finish and not body)
                self._flush()
            else:
                self._receive()
        self._flush()

    def response(self) -> Reply:
        """Wait for the whole response."""
        while not self._ended:
            self._receive()
        return self._reply

    def _receive(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection without an answer")
        for event in self._conn.receive_data(data):
            match event:
                case h2.events.ResponseReceived(headers=headers):
                    fields = _text(headers)
                    self._reply = attrs.evolve(self._reply, status=int(fields.pop(":status")), headers=fields)
                case h2.events.DataReceived(data=piece, flow_controlled_length=length):
                    self._reply = attrs.evolve(self._reply, body=self._reply.body + (piece or b""))
                    self._conn.acknowledge_received_data(length or 0, 1)
                case h2.events.TrailersReceived(headers=headers):
                    self._reply = attrs.evolve(self._reply, trailers=_text(headers))
                case h2.events.StreamEnded():
                    self._ended = True
                case h2.events.StreamReset(error_code=code) if not self._ended:
                    raise Reset(int(code or 0))
                case h2.events.ConnectionTerminated(error_code=code) if code:
                    raise Reset(int(code))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self._flush()


def _text(headers: object) -> dict[str, str]:
    assert isinstance(headers, list)
    return {str(name): str(value) for name, value in headers}


@contextlib.contextmanager
def left_open(dialect: Dialect, target: Target, path: str, body: bytes) -> Iterator[None]:
    """Begin a call and send what there is of its body; break the connection off when the context ends."""
    if dialect.name == "grpc-web-text":
        body = base64.b64encode(body)
    with connected(target, "h2" if dialect.version == 2 else "http/1.1") as sock:
        if dialect.version == 2:
            _Http2(sock).begin(target, "POST", path, {"content-type": dialect.content_type}, body)
        else:
            head = (
                f"POST {path} HTTP/1.1\r\nhost: {target.address}\r\ncontent-type: {dialect.content_type}\r\n"
            )
            sock.sendall(head.encode() + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % (len(body) + 1) + body)
        yield


@attrs.frozen
class Answer:
    """How a call ended, in any dialect."""

    #: Connect's name of the code, or "ok".
    code: str
    message: str
    payloads: list[bytes]
    reply: Reply


@attrs.frozen
class Dialect:
    """One way to put a call on the wire."""

    name: str
    content_type: str
    version: int
    #: Header that says how messages are compressed.
    encoding: str
    timeout: str
    #: The code for a body that is malformed.
    fault: str
    json: bool = False
    enveloped: bool = True

    def __str__(self) -> str:
        return self.name

    def pack(self, payload: bytes, flags: int = 0) -> bytes:
        """Put a message into the body's form."""
        return struct.pack(">BI", flags, len(payload)) + payload if self.enveloped else payload

    def encode(self, message: Message) -> bytes:
        """Put a protobuf message into the body's form."""
        return self.pack(
            json_format.MessageToJson(message).encode() if self.json else message.SerializeToString()
        )

    def decode(self, payload: bytes, kind: type[T]) -> T:
        """Return the protobuf message of an answer's payload."""
        return json_format.Parse(payload, kind()) if self.json else kind.FromString(payload)

    def send(
        self,
        target: Target,
        path: str,
        body: bytes,
        headers: Headers = types.MappingProxyType({}),
        *,
        finish: bool = True,
    ) -> Answer:
        """Make a call with a body as it is, left without its end unless it is to `finish`."""
        fields = {"content-type": self.content_type, **headers}
        if self.name == "grpc-web-text":
            body = base64.b64encode(body)
        if self.name == "grpc":
            fields["te"] = "trailers"
        ask = over_http2 if self.version == 2 else over_http1
        return self.read(ask(target, "POST", path, fields, body, finish=finish))

    def read(self, reply: Reply) -> Answer:
        """Take a response apart as a client of this dialect does."""
        if not self.enveloped:
            return self._read_unary(reply)
        assert reply.status == 200, f"{reply}: streams are always answered with 200"
        assert reply.headers["content-type"] == self.content_type
        body = reply.body
        if self.name == "grpc-web-text":
            body = _decode_base64_pieces(body)
        payloads = list(_unpack(body))
        if self.name == "grpc":
            fields = reply.trailers or reply.headers
            return self._ended(fields, [payload for _, payload in payloads], reply)
        (flags, end), messages = payloads[-1], payloads[:-1]
        assert all(other == 0 for other, _ in messages)
        data = [payload for _, payload in messages]
        if self.name.startswith("grpc-web"):
            assert flags == 0x80
            lines = (line.partition(":") for line in end.decode("latin-1").split("\r\n") if line)
            return self._ended({name: value.strip() for name, _, value in lines}, data, reply)
        assert flags == 0x02
        error = json.loads(end).get("error", {})
        return Answer(error.get("code", "ok"), error.get("message", ""), data, reply)

    def _ended(self, fields: Headers, payloads: list[bytes], reply: Reply) -> Answer:
        message = unquote_to_bytes(fields.get("grpc-message", "")).decode()
        return Answer(CODES[int(fields["grpc-status"])], message, payloads, reply)

    def _read_unary(self, reply: Reply) -> Answer:
        if reply.status == 200:
            assert reply.headers["content-type"] == self.content_type
            return Answer("ok", "", [reply.body], reply)
        assert reply.headers["content-type"] == "application/json"
        error = json.loads(reply.body)
        assert reply.status == HTTP_STATUS[error["code"]]
        return Answer(error["code"], error.get("message", ""), [], reply)


def _unpack(body: bytes) -> Iterator[tuple[int, bytes]]:
    while body:
        flags, length = struct.unpack_from(">BI", body)
        assert len(body) >= 5 + length, "the answer is cut off"
        yield flags, body[5 : 5 + length]
        body = body[5 + length :]


def _decode_base64_pieces(text: bytes) -> bytes:
    """Decode base64 that was encoded piece by piece, with padding inside."""
    assert len(text) % 4 == 0
    return b"".join(base64.b64decode(text[start : start + 4]) for start in range(0, len(text), 4))


GRPC: Final = Dialect(
    "grpc", "application/grpc", 2, encoding="grpc-encoding", timeout="grpc-timeout", fault="internal"
)
GRPC_WEB: Final = attrs.evolve(GRPC, name="grpc-web", content_type="application/grpc-web+proto", version=1)
GRPC_WEB_TEXT: Final = attrs.evolve(
    GRPC_WEB, name="grpc-web-text", content_type="application/grpc-web-text+proto"
)
CONNECT: Final = Dialect(
    "connect",
    "application/connect+proto",
    1,
    encoding="connect-content-encoding",
    timeout="connect-timeout-ms",
    fault="invalid_argument",
)
CONNECT_JSON: Final = attrs.evolve(
    CONNECT, name="connect-json", content_type="application/connect+json", json=True
)
UNARY: Final = attrs.evolve(
    CONNECT,
    name="connect-unary",
    content_type="application/proto",
    encoding="content-encoding",
    enveloped=False,
)
UNARY_JSON: Final = attrs.evolve(UNARY, name="connect-unary-json", content_type="application/json", json=True)

STREAMING: Final = (GRPC, GRPC_WEB, GRPC_WEB_TEXT, CONNECT, CONNECT_JSON)
ONE_MESSAGE: Final = (GRPC, GRPC_WEB, GRPC_WEB_TEXT, UNARY, UNARY_JSON)

streaming = pytest.mark.parametrize("dialect", STREAMING, ids=str)
one_message = pytest.mark.parametrize("dialect", ONE_MESSAGE, ids=str)
