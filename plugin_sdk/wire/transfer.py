"""Transfer: the two wire halves of ``plugin_sdk.transfer``.

A request names a source and a destination, each an Any, and streams (``streaming``) for what goes on meanwhile: the
steps, the questions for credentials, the bytes of archives. The answer is empty; the names of images are told as steps
with the event ``saved``. What a transfer needs besides is imported when one comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty

from plugin_sdk import errors
from plugin_sdk.api.services.transfer.v1 import transfer_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc, streaming

if TYPE_CHECKING:
    from plugin_sdk import transfer

SERVICE = transfer_pb2.DESCRIPTOR.services_by_name["Transfer"]


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
        from plugin_sdk.wire.transfer_ends import Ends

        if not (request.source.type_url and request.destination.type_url):
            raise errors.InvalidArgument("a transfer needs a source and a destination")
        with Ends(self._streams, call.scope) as found:
            report = found.report(request.options.progress_stream)
            source, destination = found.source(request.source), found.destination(request.destination)
            if source is None or destination is None:
                raise errors.Unimplemented(
                    f"method Transfer not implemented for {request.source.type_url} to {request.destination.type_url}"
                )
            self._resolve(call).transfer(source, destination, report)
            found.finish()


class Proxy:
    """A ``Transferrer``: the transfers of a daemon at the far end.

    When the scope is cancelled, or an exception such as KeyboardInterrupt comes, the call is cancelled and the work in
    the daemon ends.
    """

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._channel = channel
        self._scope = scope

    def transfer(
        self,
        source: transfer.Source,
        destination: transfer.Destination,
        progress: transfer.Report | None = None,
    ) -> Sequence[str]:
        from plugin_sdk.wire.transfer_session import Session

        with Session(self._channel, self._scope, progress) as session:
            return session.run(source, destination)
