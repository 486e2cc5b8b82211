from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ("api_lowest", "api_highest", "kernel_version", "name")
    API_LOWEST_FIELD_NUMBER: _ClassVar[int]
    API_HIGHEST_FIELD_NUMBER: _ClassVar[int]
    KERNEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    api_lowest: int
    api_highest: int
    kernel_version: str
    name: str
    def __init__(self, api_lowest: _Optional[int] = ..., api_highest: _Optional[int] = ..., kernel_version: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("api_lowest", "api_highest", "version", "kinds", "capabilities", "platforms", "exports", "instance")
    class ExportsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    API_LOWEST_FIELD_NUMBER: _ClassVar[int]
    API_HIGHEST_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    PLATFORMS_FIELD_NUMBER: _ClassVar[int]
    EXPORTS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    api_lowest: int
    api_highest: int
    version: str
    kinds: _containers.RepeatedScalarFieldContainer[str]
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    platforms: _containers.RepeatedScalarFieldContainer[str]
    exports: _containers.ScalarMap[str, str]
    instance: str
    def __init__(self, api_lowest: _Optional[int] = ..., api_highest: _Optional[int] = ..., version: _Optional[str] = ..., kinds: _Optional[_Iterable[str]] = ..., capabilities: _Optional[_Iterable[str]] = ..., platforms: _Optional[_Iterable[str]] = ..., exports: _Optional[_Mapping[str, str]] = ..., instance: _Optional[str] = ...) -> None: ...
