"""What an upload costs without any protocol: `python on_socket.py FOLDER`.

Each connection is one file, its end the end of the file. It is hashed, written, made durable and published as
fawad does it, in one thread that does nothing else; one byte answers. No server can be faster with these
promises on one core, so this is the ceiling of the upload figures.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from pathlib import Path

from ready import tell_ready


def receive(connection: socket.socket, folder: Path, number: int) -> None:
    partial = folder / f"{number}.partial"
    whole = hashlib.sha256()
    view = memoryview(bytearray(1 << 20))
    with partial.open("wb", buffering=0) as file:
        while count := connection.recv_into(view):
            whole.update(view[:count])
            file.write(view[:count])
        os.fsync(file.fileno())
    partial.rename(folder / whole.hexdigest())
    connection.sendall(b".")


def main(folder: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    tell_ready(listener.getsockname()[1])
    number = 0
    while True:
        connection, _ = listener.accept()
        number += 1
        with connection:
            receive(connection, folder, number)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
