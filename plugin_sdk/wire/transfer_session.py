"""One transfer at the caller: the call, and its streams, each of which has a thread."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import BinaryIO, cast

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from plugin_sdk import errors, transfer
from plugin_sdk.api.services.transfer.v1 import transfer_pb2
from plugin_sdk.api.types.transfer import progress_pb2, registry_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import byte_streams, messages, rpc, streaming
from plugin_sdk.wire import transfer_messages as ends

SERVICE = transfer_pb2.DESCRIPTOR.services_by_name["Transfer"]

SAVED = "saved"
"""The event of an image record that has been made."""

_CHUNK = 1 << 20


class Session:
    """What a callback or a file of the caller's raises ends the call."""

    def __init__(self, channel: rpc.Channel, scope: Scope, progress: transfer.Report | None) -> None:
        self._scope = Scope(scope.namespace, scope.lease, scope.deadline)
        self._forget = scope.on_cancel(self._scope.cancel)
        self._stub = rpc.Stub(channel, SERVICE, self._scope)
        self._streams = streaming.Proxy(channel, self._scope)
        self._progress = progress
        self._open: list[streaming.ProxyStream] = []
        self._failure: BaseException | None = None
        self._saved: list[str] = []
        self._waited: list[_Thread] = []

    def run(self, source: transfer.Source, destination: transfer.Destination) -> Sequence[str]:
        try:
            request = transfer_pb2.TransferRequest(
                options=transfer_pb2.TransferOptions(progress_stream=self._serve("progress", self._tell_all)),
                source=messages.any_message(streaming.pack(self._end(source))),
                destination=messages.any_message(streaming.pack(self._end(destination))),
            )
            self._stub.unary("Transfer", request, Empty)
            for thread in self._waited:
                thread.join_quiet()
        except errors.Error:
            if self._failure is None:
                raise
        if self._failure is not None:
            raise self._failure
        if isinstance(destination, transfer.ImageStore) and not isinstance(source, transfer.ImageStore):
            return self._saved
        return _named(destination) or _named(source)

    def _end(self, end: transfer.Source | transfer.Destination) -> Message:
        if isinstance(end, transfer.Registry):
            ask = end.ask
            auth = "" if ask is None else self._serve("auth", lambda stream, _: self._answer_all(stream, ask))
            return ends.registry_message(end, auth)
        if isinstance(end, transfer.ImportStream):
            file = end.file
            return ends.import_message(end, self._serve("import", lambda stream, _: self._send_all(stream, file)))
        if isinstance(end, transfer.ExportStream):
            out = end.file
            id = self._serve("export", lambda stream, thread: self._receive_all(stream, out, thread))
            return ends.export_message(end, id)
        return ends.store_message(end)

    def _serve(self, kind: str, work: Callable[[streaming.ProxyStream, _Thread], None]) -> str:
        stream = self._streams.open(kind)
        self._open.append(stream)
        thread = _Thread(stream, functools.partial(self._finish, work))
        if kind in ("progress", "export"):  # of these the last messages count
            self._waited.append(thread)
        thread.start()
        return stream.id

    def _finish(
        self, work: Callable[[streaming.ProxyStream, _Thread], None], stream: streaming.ProxyStream, thread: _Thread
    ) -> None:
        """Does a stream's work; who calls is told of what is neither an error of the call nor of its own code."""
        try:
            work(stream, thread)
        except (errors.Error, _Failed):
            raise
        except BaseException as err:
            self._failure = self._failure or err
            self._scope.cancel()
            raise _Failed from err

    def _ours(self, work: Callable[..., object], *args: object) -> object:
        """Runs what the caller has given us."""
        try:
            return work(*args)
        except BaseException as err:
            self._failure = self._failure or err
            self._scope.cancel()
            raise _Failed from err

    def _tell_all(self, stream: streaming.ProxyStream, thread: _Thread) -> None:
        while (message := stream.receive()) is not None:
            thread.has_received()
            step = ends.progress(streaming.unpack(message, progress_pb2.Progress))
            if step.event == SAVED and step.name not in self._saved:
                self._saved.append(step.name)
            if self._progress is not None:
                self._ours(self._progress, step)

    def _answer_all(self, stream: streaming.ProxyStream, ask: transfer.Ask) -> None:
        while (message := stream.receive()) is not None:
            challenge = ends.challenge(streaming.unpack(message, registry_pb2.AuthRequest))
            answer = cast("transfer.Credentials | None", self._ours(ask, challenge))
            stream.send(streaming.pack(ends.credentials_message(answer)))

    def _send_all(self, stream: streaming.ProxyStream, file: BinaryIO) -> None:
        writer = byte_streams.Writer(stream)
        while data := cast(bytes, self._ours(file.read, _CHUNK)):
            writer.write(data)
        writer.finish()
        while stream.receive() is not None:  # what is on its way needs somebody who hears of room for it
            pass

    def _receive_all(self, stream: streaming.ProxyStream, file: BinaryIO, thread: _Thread) -> None:
        reader = byte_streams.Reader(stream)
        buffer = memoryview(bytearray(_CHUNK))
        while size := reader.readinto(buffer):
            data = buffer[:size]
            thread.has_received(data)
            while data:
                data = data[cast("int | None", self._ours(file.write, data)) or len(data) :]

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self._forget()
        for stream in self._open:
            stream.cancel()


def _named(end: transfer.Source | transfer.Destination) -> Sequence[str]:
    """The image records that an end names."""
    if not isinstance(end, transfer.ImageStore):
        return ()
    return (*([end.name] if end.name else ()), *(name.name for name in end.extra))


class _Failed(Exception):
    """A thread ends since the caller's own code has failed; the session knows how."""


_QUIET = 0.5  # seconds without a message after which a stream that looks complete is
_SILENT = 10.0  # the same for one that does not
_END = bytes(1024)  # of a tar


class _Thread(threading.Thread):
    """Serves a stream. containerd closes no stream that archives are exported to: the end of a tar is the end then."""

    def __init__(self, stream: streaming.ProxyStream, work: Callable[[streaming.ProxyStream, _Thread], None]) -> None:
        super().__init__(name=stream.id, daemon=True)
        self._stream = stream
        self._work = work
        self._heard = time.monotonic()
        self._last = b""

    def run(self) -> None:
        with contextlib.suppress(errors.Error, _Failed):  # the call itself is told why
            self._work(self._stream, self)

    def has_received(self, data: bytes | memoryview = b"") -> None:
        self._heard = time.monotonic()
        self._last = (self._last + bytes(data[-len(_END) :]))[-len(_END) :]

    def join_quiet(self) -> None:
        """Returns when the stream has ended, or seems to have."""
        self.join(_QUIET)
        while self.is_alive():
            quiet = time.monotonic() - self._heard
            if quiet > _SILENT or (quiet > _QUIET and self._last == _END):
                return
            self.join(_QUIET / 10)
