"""A proxy plugin that does as it is told, badly if so ordered: its snapshots are native's, its content is local's, and
its differ has always applied a layer already.

``ROOT/orders.json`` is read at each call: for a method such as ``Prepare`` what is to happen. ``wait``: seconds before
the work, which is then done although the caller has gone; ``hold``: seconds between the work and the answer;
``answer``: fields that are set in it; ``raw``: instead of it these bytes, in hexadecimal; ``size``: so many bytes.
``ROOT/calls.jsonl`` tells each call with its headers, ``ROOT/described.json`` the last handshake.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from plugin_sdk import handshake, lanes, oci, plugin
from plugin_sdk.place import Place, Tls
from plugin_sdk.wire import content, diff, rpc, snapshots
from plugin_sdk.wire import handshake as wire_handshake
from plugin_sdk.wire.http2.server import Server
from plugins_builtin.snapshots import native

MAX_MESSAGE = 64 << 20
KINDS = {"snapshot": plugin.SNAPSHOTTER, "content": plugin.CONTENT, "diff": plugin.DIFFER}


class Orders:
    def __init__(self, root: Path) -> None:
        self._file = root / "orders.json"
        self._described = root / "described.json"
        self._calls = (root / "calls.jsonl").open("a", buffering=1)

    def of(self, method: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._file.read_text()).get(method, {})
        except FileNotFoundError:
            return {}
        return found

    def record(self, method: str, call: rpc.Call) -> None:
        headers = {name: value for name, value in call.headers.items() if name.startswith("containerd-")}
        line = json.dumps({"method": method, "headers": headers}) + "\n"
        if method == "Describe":  # which comes again and again
            self._described.write_text(line)
        else:
            self._calls.write(line)


class Moody:
    """A servicer whose calls first look at their orders."""

    def __init__(self, inner: rpc.Servicer, orders: Orders) -> None:
        self.service = inner.service
        self._orders = orders
        self._running: set[asyncio.Future[Any]] = set()
        self.methods = {name: self._wrapped(method) for name, method in inner.methods.items()}

    def _wrapped(self, method: rpc.Method) -> rpc.Method:
        wrap = self._stream if method.server_streaming else self._unary
        return replace(method, handler=wrap(method), namespaced=False)

    def _unary(self, method: rpc.Method) -> Any:
        async def handler(request: Any, call: rpc.Call) -> Message | bytes:
            self._orders.record(method.name, call)
            orders = self._orders.of(method.name)
            assert method.handler is not None
            work = asyncio.ensure_future(_late(partial(method.handler, request, call), orders.get("wait", 0)))
            self._running.add(work)
            work.add_done_callback(self._ended)
            answer = await asyncio.shield(work)
            await asyncio.sleep(orders.get("hold", 0))
            return _changed(answer, orders)

        return handler

    def _ended(self, work: asyncio.Future[Any]) -> None:
        self._running.discard(work)
        if not work.cancelled():
            work.exception()  # nobody may be there any more to be told

    def _stream(self, method: rpc.Method) -> Any:
        async def handler(request: Any, call: rpc.Call) -> AsyncIterator[Message | bytes]:
            self._orders.record(method.name, call)
            assert method.handler is not None
            async for answer in method.handler(request, call):  # type: ignore[union-attr]
                orders = self._orders.of(method.name)
                await asyncio.sleep(orders.get("wait", 0))
                yield _changed(method.response.FromString(answer) if isinstance(answer, bytes) else answer, orders)

        return handler


async def _late(work: Callable[[], Any], seconds: float) -> Message:
    await asyncio.sleep(seconds)
    answer: Message = await work()
    return answer


def _changed(answer: Message, orders: dict[str, Any]) -> Message | bytes:
    if "raw" in orders:
        return bytes.fromhex(orders["raw"])
    if "size" in orders:
        return bytes(orders["size"])
    if "answer" in orders:
        from google.protobuf import json_format  # late, as what follows: programs are started often

        for name in orders["answer"]:
            answer.ClearField(name)
        json_format.ParseDict(orders["answer"], answer)
    return answer


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", default=os.environ.get("CORTEN_PLUGIN_ADDRESS", ""))
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--content", help="Printed; what the daemon gives to differs.")
    parser.add_argument("--kind", choices=("snapshot", "content", "diff"), default="snapshot")
    parser.add_argument("--plain", action="store_true", help="Without the handshake, as containerd's own proxies.")
    parser.add_argument("--api", type=int, nargs=2, default=(1, 1))
    parser.add_argument("--says", type=json.loads, default={}, help="More of the handshake.")
    parser.add_argument("--mode", type=lambda text: int(text, 8), default=0o600)
    parser.add_argument("--tls", nargs=3, metavar=("CERT", "KEY", "CA"))
    return parser.parse_args()


class Differ:
    def apply(self, descriptor: oci.Descriptor, *_: object, **__: object) -> oci.Descriptor:
        return descriptor


def _contract(options: argparse.Namespace) -> rpc.Servicer:
    if options.kind == "content":
        from plugins_builtin.content import local

        store = local.Store(options.root)
        return content.Servicer(lambda call: store)
    if options.kind == "diff":
        return diff.Servicer(lambda call: (Differ(), None))  # type: ignore[arg-type, return-value]
    snapshotter = native.Snapshotter(options.root)
    return snapshots.Servicer(lambda call, name: snapshotter)


def _servicers(options: argparse.Namespace) -> Iterator[rpc.Servicer]:
    orders = Orders(options.root)
    yield Moody(_contract(options), orders)
    if not options.plain:
        exports = {"root": str(options.root)} if options.kind == "snapshot" else {}
        kinds = (KINDS[options.kind],)
        said = {"version": "1.0", "kinds": kinds, "exports": exports, "instance": secrets.token_hex(8)}
        description = handshake.Description(handshake.Range(*options.api), **(said | options.says))
        yield Moody(wire_handshake.Servicer(description), orders)


async def _run(options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    lane = lanes.Lane("calls", 16, 4096)
    server = Server(lambda name: lane, max_receive=MAX_MESSAGE, max_send=MAX_MESSAGE)
    for servicer in _servicers(options):
        server.mount(servicer)
    Place(options.address, mode=options.mode, tls=Tls(*options.tls) if options.tls else None).listen(server)
    await server.start()
    print("serves", flush=True)
    await stopped.wait()
    await server.stop(0.1)


if __name__ == "__main__":
    given = _options()
    if given.content:
        print("content is at", given.content, flush=True)
    given.root.mkdir(parents=True, exist_ok=True)
    asyncio.run(_run(given))
