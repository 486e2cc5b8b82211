"""The composition root: makes every part of the daemon, in order, and takes it down in the opposite one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from pathlib import Path

from kernel import config, directories, systemd
from plugin_sdk.workers import Workers

log = logging.getLogger("daemon")


def run(loaded: config.Loaded, workers: Workers) -> None:
    """Serves until SIGTERM or SIGINT. Raises FailedPrecondition, with the reason, when it cannot start."""
    asyncio.run(_run(loaded, workers))


async def _run(loaded: config.Loaded, workers: Workers) -> None:
    stopped = _stop_on_signals()
    async with contextlib.AsyncExitStack() as stack:
        await _start(loaded, workers, stack)
        systemd.notify("READY=1")
        await stopped.wait()
        systemd.notify("STOPPING=1")
        log.info("stops; running tasks go on")


def _stop_on_signals() -> asyncio.Event:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


async def _start(loaded: config.Loaded, workers: Workers, stack: contextlib.AsyncExitStack) -> None:
    begin = time.perf_counter()
    settings = loaded.config
    root, state = Path(settings.root), Path(settings.state)
    directories.make(root, state)
    stack.enter_context(directories.taken(root))
    _set_process(settings)

    from kernel.server import Server  # imports grpc, which takes most of the start

    server = Server(settings, lambda name: None, lambda scope: None)
    from plugin_sdk.wire import version

    server.mount([version.Servicer(VERSION, REVISION)])
    stack.push_async_callback(server.stop)
    await server.start()
    log.info("serves at %s after %.0f ms", settings.grpc.address, 1000 * (time.perf_counter() - begin))


def _set_process(settings: config.Config) -> None:
    os.umask(0o022)
    if settings.temp:
        directories.make(Path(settings.temp))
        os.environ["TMPDIR"] = settings.temp
    if settings.oom_score:
        try:
            Path("/proc/self/oom_score_adj").write_text(str(settings.oom_score))
        except OSError as err:
            log.warning("oom_score %d cannot be set: %s", settings.oom_score, err.strerror)
