"""A client that makes calls at a steady rate on one snapshotter, and logs each call and each answer.

``python caller.py ADDRESS SNAPSHOTTER RATE LOG``. One life after the other: prepare, a file written into its mount,
mounts, commit; their calls come at the rate, whether those before have been answered or not. SIGTERM ends it when what
has begun is answered. Each line of LOG is JSON: ``call`` and ``key``, and of an answer also ``took``, in seconds, and
``error`` or the ``path`` of the file.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO, TypeVar

import corten
from plugin_sdk import errors, snapshots

T = TypeVar("T")
CALLS = 3  # of one life
MANY = 512  # lives at once


class Client:
    def __init__(self, snapshotter: snapshots.Snapshotter, log: TextIO) -> None:
        self._snapshotter = snapshotter
        self._log = log
        self._lock = threading.Lock()

    def live(self, number: int) -> None:
        key, name = f"key-{os.getpid()}-{number}", f"layer-{os.getpid()}-{number}"
        try:
            mounts = self._call("prepare", key, lambda: self._snapshotter.prepare(key))
            (file := Path(mounts[0].source, "file")).write_text(name)
            self._call("mounts", key, lambda: self._snapshotter.mounts(key))
            self._call("commit", name, lambda: self._snapshotter.commit(name, key), path=str(file))
        except errors.Error:
            return  # logged

    def _call(self, call: str, key: str, work: Callable[[], T], **more: Any) -> T:
        self._write(call=call, key=key)
        begun = time.monotonic()
        try:
            answer = work()
        except errors.Error as err:
            self._write(call=call, key=key, took=time.monotonic() - begun, error=str(err))
            raise
        self._write(call=call, key=key, took=time.monotonic() - begun, **more)
        return answer

    def _write(self, **fields: Any) -> None:
        with self._lock:
            self._log.write(json.dumps({"at": time.time(), **fields}) + "\n")


def main(address: str, snapshotter: str, rate: float, log: str) -> None:
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with corten.connect(address) as connection, open(log, "a", buffering=1) as file, ThreadPoolExecutor(MANY) as lives:
        client = Client(connection.view("default").snapshotter(snapshotter), file)
        begun = time.monotonic()
        for number in itertools.count():
            if ended.wait(max(0.0, begun + number * CALLS / rate - time.monotonic())):
                return
            lives.submit(client.live, number)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
