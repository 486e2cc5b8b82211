"""Transfer: the two wire halves of ``plugin_sdk.transfer``.

A request names a source and a destination, each an Any, and streams (``streaming``) for what goes on meanwhile: the
steps, the questions for credentials, the bytes of archives. The answer is empty; the names of images are told as steps
with the event ``saved``.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, cast

from google.protobuf import any_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from plugin_sdk import errors, transfer
from plugin_sdk.api.services.transfer.v1 import transfer_pb2
from plugin_sdk.api.types.transfer import imagestore_pb2, importexport_pb2, progress_pb2, registry_pb2
from plugin_sdk.runtime import Any
from plugin_sdk.scope import Scope
from plugin_sdk.wire import byte_streams, messages, rpc, streaming
from plugin_sdk.wire import transfer_messages as ends

SERVICE = transfer_pb2.DESCRIPTOR.services_by_name["Transfer"]

SAVED = "saved"
"""The event of an image record that has been made."""

_FLUSH = 5.0  # seconds for a caller to take the last steps
_CHUNK = 1 << 20


# --- the server


class Servicer:
    """``resolve`` answers the caller's transferrer; it may block. ``lane`` names the threads for the work."""

    service = SERVICE.full_name

    def __init__(
        self, resolve: Callable[[rpc.Call], transfer.Transferrer], streams: streaming.Streams, lane: str = ""
    ) -> None:
        self._resolve = resolve
        self._streams = streams
        self._lane = lane
        self.methods: Mapping[str, rpc.Method] = rpc.served(SERVICE, {"Transfer": self._transfer})

    async def _transfer(self, request: transfer_pb2.TransferRequest, call: rpc.Call) -> Empty:
        await call.run(self._work, request, call, lane=self._lane)
        return Empty()

    def _work(self, request: transfer_pb2.TransferRequest, call: rpc.Call) -> None:
        with _Ends(self._streams, call.scope) as found:
            report = found.report(request.options.progress_stream)
            source, destination = found.source(request.source), found.destination(request.destination)
            if source is None or destination is None:
                raise errors.Unimplemented(
                    f"method Transfer not implemented for {request.source.type_url} to {request.destination.type_url}"
                )
            self._resolve(call).transfer(source, destination, report)
            found.finish()


class _Ends:
    """The streams of one transfer. They are closed with it, and when its caller goes away."""

    def __init__(self, streams: streaming.Streams, scope: Scope) -> None:
        self._streams = streams
        self._scope = scope
        self._steps: streaming.Served | None = None
        self._writer: byte_streams.AckedWriter | None = None
        self._closing = contextlib.ExitStack()

    def _stream(self, id: str) -> streaming.Served:
        stream = self._streams.find(self._scope.namespace, id)
        self._closing.callback(stream.close)
        self._closing.callback(self._scope.on_cancel(stream.close))
        return stream

    def report(self, id: str) -> transfer.Report | None:
        if not id:
            return None
        self._steps = steps = self._stream(id)

        def tell(step: transfer.Progress) -> None:
            with contextlib.suppress(errors.Canceled):  # nobody listens any more
                steps.send(streaming.pack(ends.progress_message(step)))

        return tell

    def source(self, message: any_pb2.Any) -> transfer.Source | None:
        value = messages.any_value(message)
        if streaming.is_of(value, registry_pb2.OCIRegistry):
            return self._registry(streaming.unpack(value, registry_pb2.OCIRegistry))
        if streaming.is_of(value, importexport_pb2.ImageImportStream):
            archive = streaming.unpack(value, importexport_pb2.ImageImportStream)
            return ends.import_stream(archive, cast(BinaryIO, byte_streams.reader(self._stream(archive.stream))))
        return self._store(value)

    def destination(self, message: any_pb2.Any) -> transfer.Destination | None:
        value = messages.any_value(message)
        if streaming.is_of(value, registry_pb2.OCIRegistry):
            return self._registry(streaming.unpack(value, registry_pb2.OCIRegistry))
        if streaming.is_of(value, importexport_pb2.ImageExportStream):
            archive = streaming.unpack(value, importexport_pb2.ImageExportStream)
            self._writer = byte_streams.AckedWriter(self._stream(archive.stream))
            return ends.export_stream(archive, cast(BinaryIO, self._writer))
        return self._store(value)

    def _store(self, value: Any) -> transfer.ImageStore | None:
        if not streaming.is_of(value, imagestore_pb2.ImageStore):
            return None
        return ends.store(streaming.unpack(value, imagestore_pb2.ImageStore))

    def _registry(self, message: registry_pb2.OCIRegistry) -> transfer.Registry:
        stream = message.resolver.auth_stream
        return ends.registry(message, _Asking(self._stream(stream)) if stream else None)

    def finish(self) -> None:
        """Returns when the caller has been told and given everything."""
        if self._writer is not None:
            self._writer.finish()
        if self._steps is not None:
            self._steps.close()
            self._steps.wait(_FLUSH)

    def __enter__(self) -> _Ends:
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.close()


class _Asking:
    """Asks the caller for credentials, one at a time."""

    def __init__(self, stream: streaming.Stream) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, challenge: transfer.Challenge) -> transfer.Credentials | None:
        with self._lock:
            self._stream.send(streaming.pack(ends.challenge_message(challenge)))
            answer = self._stream.receive()
        return None if answer is None else ends.credentials(streaming.unpack(answer, registry_pb2.AuthResponse))


# --- the client


class Proxy(transfer.Transferrer):
    """The transfers of a daemon at the far end. When the scope is cancelled, or an exception such as KeyboardInterrupt
    comes, the call is cancelled and the work in the daemon ends."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._channel = channel
        self._scope = scope

    def transfer(
        self,
        source: transfer.Source,
        destination: transfer.Destination,
        progress: transfer.Report | None = None,
    ) -> Sequence[str]:
        with _Session(self._channel, self._scope, progress) as session:
            saved = session.run(source, destination)
        if isinstance(destination, transfer.ImageStore) and not isinstance(source, transfer.ImageStore):
            return saved
        return _named(destination) or _named(source)


def _named(end: transfer.Source | transfer.Destination) -> Sequence[str]:
    """The image records that an end names."""
    if not isinstance(end, transfer.ImageStore):
        return ()
    return (*([end.name] if end.name else ()), *(name.name for name in end.extra))


class _Session:
    """One call with its streams, each of which has a thread. What a callback or a file raises ends the call."""

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
        return self._saved

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
        thread = _Thread(stream, work)
        if kind in ("progress", "export"):  # of these the last messages count
            self._waited.append(thread)
        thread.start()
        return stream.id

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

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self._forget()
        for stream in self._open:
            stream.cancel()


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
