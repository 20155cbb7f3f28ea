from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FileInfo(_message.Message):
    __slots__ = ("name", "size", "upload_id", "offset", "sha256", "complete", "terms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    upload_id: str
    offset: int
    sha256: bytes
    complete: bool
    terms: Terms
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., upload_id: _Optional[str] = ..., offset: _Optional[int] = ..., sha256: _Optional[bytes] = ..., complete: _Optional[bool] = ..., terms: _Optional[_Union[Terms, _Mapping]] = ...) -> None: ...

class Terms(_message.Message):
    __slots__ = ("ttl_seconds", "max_downloads", "password")
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_DOWNLOADS_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    ttl_seconds: int
    max_downloads: int
    password: str
    def __init__(self, ttl_seconds: _Optional[int] = ..., max_downloads: _Optional[int] = ..., password: _Optional[str] = ...) -> None: ...

class SendFileRequest(_message.Message):
    __slots__ = ("info", "chunk_data")
    INFO_FIELD_NUMBER: _ClassVar[int]
    CHUNK_DATA_FIELD_NUMBER: _ClassVar[int]
    info: FileInfo
    chunk_data: bytes
    def __init__(self, info: _Optional[_Union[FileInfo, _Mapping]] = ..., chunk_data: _Optional[bytes] = ...) -> None: ...

class SendFileResponse(_message.Message):
    __slots__ = ("success", "message", "randomkey", "expires_at", "sha256", "offset", "owner_token")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RANDOMKEY_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    OWNER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    randomkey: str
    expires_at: int
    sha256: bytes
    offset: int
    owner_token: str
    def __init__(self, success: _Optional[bool] = ..., message: _Optional[str] = ..., randomkey: _Optional[str] = ..., expires_at: _Optional[int] = ..., sha256: _Optional[bytes] = ..., offset: _Optional[int] = ..., owner_token: _Optional[str] = ...) -> None: ...

class StartUploadRequest(_message.Message):
    __slots__ = ("name", "size", "sha256", "terms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    sha256: bytes
    terms: Terms
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ..., terms: _Optional[_Union[Terms, _Mapping]] = ...) -> None: ...

class StartUploadResponse(_message.Message):
    __slots__ = ("upload_id", "expires_at", "owner_token")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    OWNER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    expires_at: int
    owner_token: str
    def __init__(self, upload_id: _Optional[str] = ..., expires_at: _Optional[int] = ..., owner_token: _Optional[str] = ...) -> None: ...

class GetUploadRequest(_message.Message):
    __slots__ = ("upload_id",)
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    def __init__(self, upload_id: _Optional[str] = ...) -> None: ...

class GetUploadResponse(_message.Message):
    __slots__ = ("offset", "expires_at", "size", "file")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    offset: int
    expires_at: int
    size: int
    file: SendFileResponse
    def __init__(self, offset: _Optional[int] = ..., expires_at: _Optional[int] = ..., size: _Optional[int] = ..., file: _Optional[_Union[SendFileResponse, _Mapping]] = ...) -> None: ...

class CancelUploadRequest(_message.Message):
    __slots__ = ("upload_id",)
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    def __init__(self, upload_id: _Optional[str] = ...) -> None: ...

class CancelUploadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UploadOffset(_message.Message):
    __slots__ = ("offset",)
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    def __init__(self, offset: _Optional[int] = ...) -> None: ...

class ReceiveFileRequest(_message.Message):
    __slots__ = ("randomkey", "offset", "length", "password")
    RANDOMKEY_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    randomkey: str
    offset: int
    length: int
    password: str
    def __init__(self, randomkey: _Optional[str] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., password: _Optional[str] = ...) -> None: ...

class ReceiveFileResponse(_message.Message):
    __slots__ = ("filename", "file_size", "chunk_data", "sha256", "expires_at")
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    FILE_SIZE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_DATA_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    filename: str
    file_size: int
    chunk_data: bytes
    sha256: bytes
    expires_at: int
    def __init__(self, filename: _Optional[str] = ..., file_size: _Optional[int] = ..., chunk_data: _Optional[bytes] = ..., sha256: _Optional[bytes] = ..., expires_at: _Optional[int] = ...) -> None: ...

class GetDownloadURLRequest(_message.Message):
    __slots__ = ("randomkey", "password")
    RANDOMKEY_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    randomkey: str
    password: str
    def __init__(self, randomkey: _Optional[str] = ..., password: _Optional[str] = ...) -> None: ...

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

class DeleteFileRequest(_message.Message):
    __slots__ = ("randomkey", "owner_token")
    RANDOMKEY_FIELD_NUMBER: _ClassVar[int]
    OWNER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    randomkey: str
    owner_token: str
    def __init__(self, randomkey: _Optional[str] = ..., owner_token: _Optional[str] = ...) -> None: ...

class DeleteFileResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
