"""The ends of one transfer at the daemon: what a request names, with the streams that go with it."""

from __future__ import annotations

import contextlib
import threading
from typing import BinaryIO, cast

from google.protobuf import any_pb2

from plugin_sdk import errors, transfer
from plugin_sdk.api.types.transfer import imagestore_pb2, importexport_pb2, registry_pb2
from plugin_sdk.runtime import Any
from plugin_sdk.scope import Scope
from plugin_sdk.wire import byte_streams, messages, streaming
from plugin_sdk.wire import transfer_messages as ends

_FLUSH = 5.0  # seconds for a caller to take the last steps


class Ends:
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

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.close()


class _Asking:
    """Asks the caller for credentials, one at a time. One who has gone has none: what others wait for goes on."""

    def __init__(self, stream: streaming.Stream) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, challenge: transfer.Challenge) -> transfer.Credentials | None:
        try:
            answer = self._answer(challenge)
        except errors.Canceled:
            return None
        return None if answer is None else ends.credentials(streaming.unpack(answer, registry_pb2.AuthResponse))

    def _answer(self, challenge: transfer.Challenge) -> Any | None:
        with self._lock:
            self._stream.send(streaming.pack(ends.challenge_message(challenge)))
            return self._stream.receive()
