from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DrawEvent(_message.Message):
    __slots__ = ("type", "color", "size", "prev_x", "prev_y", "curr_x", "curr_y", "client_id")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    COLOR_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PREV_X_FIELD_NUMBER: _ClassVar[int]
    PREV_Y_FIELD_NUMBER: _ClassVar[int]
    CURR_X_FIELD_NUMBER: _ClassVar[int]
    CURR_Y_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    type: str
    color: str
    size: int
    prev_x: int
    prev_y: int
    curr_x: int
    curr_y: int
    client_id: str
    def __init__(self, type: _Optional[str] = ..., color: _Optional[str] = ..., size: _Optional[int] = ..., prev_x: _Optional[int] = ..., prev_y: _Optional[int] = ..., curr_x: _Optional[int] = ..., curr_y: _Optional[int] = ..., client_id: _Optional[str] = ...) -> None: ...

class History(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[DrawEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[DrawEvent, _Mapping]]] = ...) -> None: ...

class ClientDrawRequest(_message.Message):
    __slots__ = ("draw_event",)
    DRAW_EVENT_FIELD_NUMBER: _ClassVar[int]
    draw_event: DrawEvent
    def __init__(self, draw_event: _Optional[_Union[DrawEvent, _Mapping]] = ...) -> None: ...

class ClientDrawResponse(_message.Message):
    __slots__ = ("draw_event", "initial_history")
    DRAW_EVENT_FIELD_NUMBER: _ClassVar[int]
    INITIAL_HISTORY_FIELD_NUMBER: _ClassVar[int]
    draw_event: DrawEvent
    initial_history: History
    def __init__(self, draw_event: _Optional[_Union[DrawEvent, _Mapping]] = ..., initial_history: _Optional[_Union[History, _Mapping]] = ...) -> None: ...
