"""The same line of ``ctr`` against Corten and against containerd, and what of the two answers must be equal.

In a line, ``@`` stands for a prefix that each side has of its own (both share cgroups and runc's state, so ids must
differ) and ``{dir}`` for a directory of its own. Both are undone in the output, together with what differs between any
two runs: times, PIDs, UUIDs, numbers of directories.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.daemons import Daemon
from tests.recorder import Event, Recorder

Scrubs = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
SCRUBS: Scrubs = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:?\d\d))?( UTC)?", "TIME"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID"),
    (r"([Ll]ess than a|[Aa]bout an?|\d+) (second|minute|hour)s?( ago)?", "AGE"),
    (r"\bextract-\d+-\S{4}(?= )", "EXTRACT"),
    (r"/tmp/containerd-mount\d+", "MOUNTED"),
    (r"\d+(\.\d+)?m?s\b", "SPAN"),
    (r"DIR/root/\S*?snapshots/\d+", "SNAPSHOT"),
    (r"/run/containerd/fifo/\d+", "FIFOS"),
    (r"DIR/state/\S*?\.task(?=/)", "TASKS"),
    (r"(?m)^(@\S+\s+)\d+(\s+(?:CREATED|RUNNING|STOPPED|PAUSED))", r"\1PID\2"),
    (r"[ \t]+(?=\n)|[ \t]+$", ""),
    (r"(?<=\S)([ \t]{2,}|\t)", " "),
    (r"\S+=\S*(?:,\S+=\S*)+", lambda found: ",".join(sorted(found[0].split(",")))),
)
# Events as containerd 2.x tells them and 1.6 does not: docs/compat.md, known differences.
LATER_TOPICS = ("/content/create", "/content/delete")
LATER_FIELDS = (("/snapshot/", "snapshotter"),)
# Answers in the order of a hash table.
UNORDERED = (("tasks", "ls"), ("t", "ls"))
MOVING = ("pid", "exited_at", "created_at", "updated_at")


def prefix(letter: str) -> str:
    """Of one side in this test run: two runs on one machine share cgroups too."""
    number = os.getpid()
    return "z" + "".join(chr(ord("a") + number // 26**place % 26) for place in range(4)) + f"{letter}-"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one line, normalised."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    def in_order(self) -> Outcome:
        return replace(self, stdout="\n".join(sorted(self.lines)))


@dataclass(frozen=True, slots=True)
class Side:
    """One daemon with what is its own."""

    daemon: Daemon
    recorder: Recorder
    prefix: str
    directory: Path
    ctr_path: str = ""

    @property
    def name(self) -> str:
        return self.daemon.name

    def resolve(self, argument: str) -> str:
        return argument.replace("{dir}", str(self.directory)).replace("@", self.prefix)

    def normalise(self, text: str, scrubs: Scrubs = ()) -> str:
        text = text.replace(str(self.directory), "{dir}").replace(str(self.daemon.directory), "DIR")
        text = text.replace(self.prefix, "@")
        for pattern, replacement in (*scrubs, *SCRUBS):
            text = re.sub(pattern, replacement, text)
        return text

    def argv(self, *line: str, namespace: str = "default") -> list[str]:
        arguments = [self.resolve(argument) for argument in line]
        return self.client.argv(*arguments, namespace=self.resolve(namespace))

    @property
    def client(self) -> Daemon:
        return replace(self.daemon, ctr_path=self.ctr_path) if self.ctr_path else self.daemon

    def ctr(
        self, *line: str, namespace: str = "default", stdin: bytes | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[bytes]:
        """The bare answer of this side alone."""
        arguments = [self.resolve(argument) for argument in line]
        return self.client.ctr(*arguments, namespace=self.resolve(namespace), stdin=stdin, timeout=timeout)

    def output(self, *line: str, namespace: str = "default") -> str:
        """Standard output of a line that must succeed."""
        done = self.ctr(*line, namespace=namespace)
        assert done.returncode == 0, f"{self.name}: ctr {' '.join(line)}: {done.stderr.decode()}"
        return done.stdout.decode()

    def outcome(self, done: subprocess.CompletedProcess[bytes], scrubs: Scrubs = ()) -> Outcome:
        stdout, stderr = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        return Outcome(done.returncode, self.normalise(stdout, scrubs), self.normalise(stderr, scrubs))


@dataclass(slots=True)
class Both:
    """``corten`` and ``peer``; a line runs on both at the same time."""

    corten: Side
    peer: Side

    def __iter__(self) -> Iterator[Side]:
        return iter((self.peer, self.corten))

    def each(self, work: Callable[[Side], Any]) -> tuple[Any, Any]:
        """``work`` for both at once; answers (peer's, Corten's)."""
        with ThreadPoolExecutor(2) as pool:
            peer, corten = pool.map(work, self)
        return peer, corten

    def same(self, work: Callable[[Side], Any]) -> Any:
        """``work`` for both at once, the answers of which must be equal; answers it."""
        peer, corten = self.each(work)
        assert corten == peer, f"\ncontainerd: {peer}\ncorten:     {corten}"
        return corten

    def ctr(
        self,
        *line: str,
        namespace: str = "default",
        stdin: bytes | None = None,
        timeout: float = 300,
        scrubs: Scrubs = (),
        code: int | None = 0,
    ) -> Outcome:
        """Runs the line on both; the normalised outcomes must be equal, and the exit code be ``code`` if not None."""

        def run(side: Side) -> Outcome:
            done = side.outcome(side.ctr(*line, namespace=namespace, stdin=stdin, timeout=timeout), scrubs)
            return done.in_order() if line[:2] in UNORDERED else done

        peer, corten = self.each(run)
        assert corten == peer, difference(line, peer, corten)
        assert code is None or peer.code == code, f"ctr {' '.join(line)} ended with {peer.code}: {peer.stderr}"
        return Outcome(peer.code, peer.stdout, peer.stderr)

    def mark(self) -> tuple[int, int]:
        """A point in time: the events that come after it are compared by ``same_events``."""
        return self.peer.recorder.flush(), self.corten.recorder.flush()

    def same_events(self, mark: tuple[int, int], last: tuple[str, str] | None = None) -> list[str]:
        """The events since ``mark`` are equal: for each subject the same ones in the same order.

        ``last`` is (topic, subject) of one to wait for first. Answers the topics in the order containerd told them.
        """
        found = []
        for side, start in zip(self, mark, strict=True):
            if last is not None:
                side.recorder.wait(start, last[0], side.resolve(last[1]))
            side.recorder.flush()
            told = [event for event in side.recorder.since(start) if event.topic not in LATER_TOPICS]
            found.append([normal_event(side, event) for event in told])
        peer, corten = (by_subject(events) for events in found)
        assert corten == peer, difference(
            ("events",), *(json.dumps(one, indent=1, sort_keys=True) for one in (peer, corten))
        )
        return [event["topic"] for event in found[0]]


def normal_event(side: Side, event: Event) -> dict[str, Any]:
    def still(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: "MOVING" if key in MOVING else still(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [still(inner) for inner in value]
        return side.normalise(value) if isinstance(value, str) else value

    later = [name for topic, name in LATER_FIELDS if event.topic.startswith(topic)]
    kept = {name: value for name, value in event.payload.items() if name not in later}
    payload = {"payload": still(kept), "subject": side.normalise(event.subject)}
    return {"namespace": side.normalise(event.namespace), "topic": event.topic, "type_url": event.type_url, **payload}


def by_subject(events: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        groups.setdefault(f"{event['namespace']} {event['subject']}", []).append(event)
    return groups


def difference(line: Sequence[str], peer: Outcome | str, corten: Outcome | str) -> str:
    def text(one: Outcome | str) -> list[str]:
        if isinstance(one, str):
            return one.splitlines()
        return [f"exit code {one.code}", *(f"1: {x}" for x in one.lines), *(f"2: {x}" for x in one.stderr.splitlines())]

    changes = difflib.unified_diff(text(peer), text(corten), "containerd", "corten", lineterm="", n=2)
    return f"ctr {' '.join(line)}\n" + "\n".join(changes)
