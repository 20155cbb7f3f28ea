from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FileInfo(_message.Message):
    __slots__ = ("name", "size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class SendFileRequest(_message.Message):
    __slots__ = ("info", "chunk_data")
    INFO_FIELD_NUMBER: _ClassVar[int]
    CHUNK_DATA_FIELD_NUMBER: _ClassVar[int]
    info: FileInfo
    chunk_data: bytes
    def __init__(self, info: _Optional[_Union[FileInfo, _Mapping]] = ..., chunk_data: _Optional[bytes] = ...) -> None: ...

class SendFileResponse(_message.Message):
    __slots__ = ("success", "message", "randomkey", "expires_at")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RANDOMKEY_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    randomkey: str
    expires_at: int
    def __init__(self, success: _Optional[bool] = ..., message: _Optional[str] = ..., randomkey: _Optional[str] = ..., expires_at: _Optional[int] = ...) -> None: ...

class ReceiveFileRequest(_message.Message):
    __slots__ = ("randomkey",)
    RANDOMKEY_FIELD_NUMBER: _ClassVar[int]
    randomkey: str
    def __init__(self, randomkey: _Optional[str] = ...) -> None: ...

class ReceiveFileResponse(_message.Message):
    __slots__ = ("filename", "file_size", "chunk_data")
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    FILE_SIZE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_DATA_FIELD_NUMBER: _ClassVar[int]
    filename: str
    file_size: int
    chunk_data: bytes
    def __init__(self, filename: _Optional[str] = ..., file_size: _Optional[int] = ..., chunk_data: _Optional[bytes] = ...) -> None: ...

class GetDownloadURLRequest(_message.Message):
    __slots__ = ("randomkey",)
    RANDOMKEY_FIELD_NUMBER: _ClassVar[int]
    randomkey: str
    def __init__(self, randomkey: _Optional[str] = ...) -> None: ...

class GetDownloadURLResponse(_message.Message):
    __slots__ = ("url", "filename", "expires_at", "file_expires_at")
    URL_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    FILE_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    url: str
    filename: str
    expires_at: int
    file_expires_at: int
    def __init__(self, url: _Optional[str] = ..., filename: _Optional[str] = ..., expires_at: _Optional[int] = ..., file_expires_at: _Optional[int] = ...) -> None: ...
