"""Any RPC of the API, called without a client of ours: for what ``ctr`` does not reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from plugin_sdk.api import catalog
from tests.recorder import plain
from tests.sides import Side

RPCS = {f"{rpc.service.rpartition('.')[2]}/{rpc.name}": rpc for rpc in catalog.rpcs() if "ttrpc" not in rpc.service}


@dataclass(frozen=True, slots=True)
class Answer:
    """``code`` as ``NOT_FOUND``; ``details`` its message; ``messages`` as plain values, one unless it is a stream."""

    code: str
    details: str
    messages: list[Any]


def message(name: str, /, **fields: Any) -> Message:
    """A message by its full name."""
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))(**fields)


def ask(
    side: Side,
    name: str,
    /,
    *requests: dict[str, Any],
    namespace: str | None = "default",
    lease: str = "",
    timeout: float = 60,
) -> Answer:
    """Calls ``Service/Method`` with fields, several times for one that takes a stream; waits ``timeout`` seconds."""
    rpc = RPCS[name]
    shape = f"{'stream' if rpc.client_streaming else 'unary'}_{'stream' if rpc.server_streaming else 'unary'}"
    sent = [message(rpc.request, **_resolved(side, fields)) for fields in requests or ({},)]
    found: list[Any] = []
    with grpc.insecure_channel(f"unix://{side.daemon.address}") as channel:
        parse = type(message(rpc.response)).FromString
        method = getattr(channel, shape)(rpc.path, request_serializer=_bytes, response_deserializer=parse)
        headers = _headers(side.resolve(namespace) if namespace else "", lease)
        try:
            answer = method(iter(sent) if rpc.client_streaming else sent[0], timeout=timeout, metadata=headers)
            for one in answer if rpc.server_streaming else [answer]:
                found.append(plain(one))
        except grpc.RpcError as err:
            return Answer(err.code().name, side.normalise(err.details() or ""), found)
    return Answer("OK", "", found)


def _resolved(side: Side, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(side, inner) for key, inner in value.items()}
    return side.resolve(value) if isinstance(value, str) else value


def _bytes(request: Message) -> bytes:
    return request.SerializeToString()


def _headers(namespace: str, lease: str) -> Sequence[tuple[str, str]]:
    pairs = (("containerd-namespace", namespace), ("containerd-lease", lease))
    return tuple((name, value) for name, value in pairs if value)
