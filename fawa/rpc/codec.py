"""How a message becomes a payload: binary protobuf, or its JSON mapping."""

from __future__ import annotations

import abc
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from fawa.rpc.envelope import Payload

_JSON_SPACE: Final = " \t\r\n"
#: Wire type of strings, bytes and messages (protobuf's encoding, "Message Structure").
_LENGTH_DELIMITED: Final = 2
#: Bytes of a bytes field before its value: the most that a key and a length have.
_MOST_START: Final = 10
#: What `_key` has found: one entry for each method that moves content.
_KEYS: Final[dict[tuple[type[Message], str], bytes]] = {}

T = TypeVar("T", bound=Message)


class Codec(abc.ABC):
    """Encodes and decodes the messages of one call."""

    #: As in content types: "proto" or "json".
    name: str

    @abc.abstractmethod
    def decode(self, payload: bytes, message_type: type[T]) -> T:
        """Return the message that `payload` holds.

        Raises:
            GRPCError: INVALID_ARGUMENT, `payload` is not such a message.

        """

    def decode_around(
        self, payload: Payload, message_type: type[T], field: str
    ) -> tuple[T, list[bytes | memoryview]]:
        """Return the message, and the pieces of what its bytes field `field` holds.

        Where the codec can, these are views of what `payload` has, and the message is without that field.

        Raises:
            GRPCError: as `decode`.

        """
        message = self.decode(payload if isinstance(payload, bytes) else b"".join(payload), message_type)
        content: bytes = getattr(message, field)
        return message, [content] if content else []

    @abc.abstractmethod
    def encode(self, message: Message) -> bytes:
        """Return the payload of `message`."""

    def encode_around(self, message: Message, field: str, content: bytes) -> tuple[bytes, bytes]:
        """Return the payload of `message` with its bytes field `field` set to `content`, in two parts.

        Where the codec can, the second part is `content` itself, uncopied.

        Args:
            message: without that field, which it may get here.
            field: name of a field whose number is above those of all fields set.
            content: what is large.

        """
        setattr(message, field, content)
        return self.encode(message), b""


class ProtoCodec(Codec):
    """Binary protobuf."""

    name = "proto"

    def decode(self, payload: bytes, message_type: type[T]) -> T:
        try:
            return message_type.FromString(payload)
        except DecodeError as error:
            raise _invalid(message_type, str(error)) from None

    def decode_around(
        self, payload: Payload, message_type: type[T], field: str
    ) -> tuple[T, list[bytes | memoryview]]:
        # Where that field is all there is, protobuf would only copy it, twice.
        pieces: list[bytes | memoryview] = [payload] if isinstance(payload, bytes) else payload
        if pieces:
            first, size = memoryview(pieces[0]), sum(map(len, pieces))
            # A beginning that is in two pieces is left to protobuf.
            key = _key(message_type, field)
            start = _start_of_only_field_untrusted(bytes(first[:_MOST_START]), size, key)
            if start:
                rest = pieces[1:]
                return message_type(), [first[start:], *rest] if start < len(first) else rest
        return super().decode_around(payload, message_type, field)

    def encode(self, message: Message) -> bytes:
        return message.SerializeToString()

    def encode_around(self, message: Message, field: str, content: bytes) -> tuple[bytes, bytes]:
        # A message is its fields one after the other; protobuf itself would copy `content` four times.
        return message.SerializeToString() + _key(type(message), field) + _varint(len(content)), content


class JsonCodec(Codec):
    """The JSON mapping of protobuf: lowerCamelCase out, both name styles in, unknown fields ignored."""

    name = "json"

    def decode(self, payload: bytes, message_type: type[T]) -> T:
        # Imported at the first JSON call: a daemon that speaks none starts sooner.
        from google.protobuf import json_format  # noqa: PLC0415

        message = message_type()
        try:
            text = payload.decode("utf-8")
            # json_format takes any empty sequence for an object. Well-known types have other forms.
            if not text.lstrip(_JSON_SPACE).startswith("{") and not _is_well_known(message_type):
                raise _invalid(message_type, "JSON of a message is an object, {…}")
            json_format.Parse(text, message, ignore_unknown_fields=True)
        except (json_format.ParseError, UnicodeDecodeError) as error:
            raise _invalid(message_type, str(error)) from None
        return message

    def encode(self, message: Message) -> bytes:
        from google.protobuf import json_format  # noqa: PLC0415

        return json_format.MessageToJson(message, indent=None, ensure_ascii=False).encode()


def _key(message_type: type[Message], field: str) -> bytes:
    """Return what a bytes field begins with (protobuf's encoding, "Message Structure")."""
    key = _KEYS.get((message_type, field))
    if key is None:
        number: int = message_type.DESCRIPTOR.fields_by_name[field].number
        key = _KEYS[message_type, field] = _varint(number << 3 | _LENGTH_DELIMITED)
    return key


def _start_of_only_field_untrusted(beginning: bytes, size: int, key: bytes) -> int:
    """Return where the value of a bytes field starts, 0 unless a payload is that field and nothing else.

    Args:
        beginning: of the payload, at least `_MOST_START` bytes or all of it or of its first piece.
        size: of the payload, in bytes.
        key: what the field begins with.

    """
    if not beginning.startswith(key):
        return 0
    # The length is known, and has one shortest encoding; that of what is left has as many bytes, or one more.
    most = -(-(size - len(key)).bit_length() // 7)
    for count in (most, most - 1):
        start = len(key) + count
        length = _varint(max(0, size - start))
        if start < size and len(length) == count and beginning.startswith(length, len(key)):
            return start
    return 0


def _varint(number: int) -> bytes:
    """Encode an unsigned integer in base 128 (protobuf's encoding, "Base 128 Varints")."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _is_well_known(message_type: type[Message]) -> bool:
    return message_type.DESCRIPTOR.file.package == "google.protobuf"


def _invalid(message_type: type[Message], reason: str) -> GRPCError:
    name = message_type.DESCRIPTOR.full_name
    return GRPCError(Status.INVALID_ARGUMENT, f"message is not a valid {name}: {reason}")


PROTO: Final = ProtoCodec()
JSON: Final = JsonCodec()
