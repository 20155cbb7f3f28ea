"""What the daemon answers, as the contract has it, said once for every client."""

from __future__ import annotations

import hashlib
import random
from typing import Final

#: Names that a careless encoder mangles: none, several bytes a letter, right to left, beyond the BMP.
NAMES: Final = ("Ada", "", "Zoë", "李雷", "שלום", "🦊 fox")

UNARY: Final = "/greet.v1.GreetService/SayHello"
SERVER_STREAM: Final = "/greet.v1.GreetService/GreetStream"
CLIENT_STREAM: Final = "/greet.v1.GreetService/GreetClientStream"
BIDI: Final = "/greet.v1.GreetService/GreetBidiStream"
SEND_FILE: Final = "/file.v1.FileService/SendFile"
RECEIVE_FILE: Final = "/file.v1.FileService/ReceiveFile"
DOWNLOAD_URL: Final = "/file.v1.FileService/GetDownloadURL"
DELETE_FILE: Final = "/file.v1.FileService/DeleteFile"
COLLABORATE: Final = "/canva.v1.CanvaService/Collaborate"

#: The services that reflection lists and health knows.
SERVICES: Final = ("greet.v1.GreetService", "file.v1.FileService", "canva.v1.CanvaService")

#: The response header of SayHello.
VERSION_HEADER: Final = ("greet-version", "v1")

#: Bytes a message may have by default, as in gRPC.
MAX_MESSAGE: Final = 4 * 1024 * 1024


def greeting(name: str) -> str:
    """What SayHello answers, and GreetBidiStream to each name."""
    return f"Hello, {name}!"


def parts(name: str) -> list[str]:
    """What GreetStream answers."""
    return [f"Hello, {name or 'World'}! (part {n})" for n in range(1, 11)]


def summary(*names: str) -> str:
    """What GreetClientStream answers."""
    return f"Hello, {', '.join(names)}!"


def content(size: int, seed: int = 1) -> bytes:
    """Bytes of a file that neither compress nor repeat."""
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
