"""Pull, push, import and export for people: with progress, and a line of what came of it."""

from __future__ import annotations

import contextlib
import getpass
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from corten import manifests
from corten.terminal import command, progress_bars, tables
from plugin_sdk import errors, transfer
from plugin_sdk.images import Image
from plugin_sdk.platforms import Platform

if TYPE_CHECKING:
    from corten.client import Client


_HELPER = 30.0  # seconds for a program that keeps credentials
_AS_THEY_ARE = transfer.Name("imported", is_prefix=True, allow_overwrite=True)
"""The names that an archive gives; one that is only a tag is of ``imported``."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a registry is reached. ``user`` is ``NAME[:SECRET]``; without the secret it is asked for on the terminal.

    Without a user the credentials are those that ``docker login`` has kept for who types the line, then the daemon's.
    """

    plain_http: bool = False
    hosts_dir: str = ""
    user: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def registry(self, reference: str, shown: progress_bars.Shown) -> transfer.Registry:
        return transfer.Registry(
            reference,
            headers=self.headers,
            host_dir=self.hosts_dir,
            scheme="http" if self.plain_http else "",
            ask=_Asking(self.user, shown) if self.user else _Kept(shown),
        )


class _Asking:
    """Answers a registry's challenges with what the user gave; a secret is asked for once, without echo."""

    def __init__(self, user: str, shown: progress_bars.Shown) -> None:
        self._shown = shown
        self._name, colon, secret = user.partition(":")
        self._secret = secret if colon else None
        self._lock = threading.Lock()

    def __call__(self, challenge: transfer.Challenge) -> transfer.Credentials:
        with self._lock:
            if self._secret is None:
                with self._shown.paused():
                    self._secret = _typed(f"Password of {self._name} at {challenge.host}")
        return transfer.Credentials(self._name, self._secret)


class _Kept:
    """Answers with what ``docker login`` has kept. Of a broken file or helper it tells once, and has nothing."""

    def __init__(self, shown: progress_bars.Shown) -> None:
        self._shown = shown
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, challenge: transfer.Challenge) -> transfer.Credentials | None:
        from plugin_sdk.distribution.http import credentials

        try:
            return credentials.Sources({}, "", _HELPER).find(challenge.host)
        except errors.Error as err:
            with self._lock:
                if err.message not in self._told:
                    self._told.add(err.message)
                    with self._shown.paused():
                        command.say(f"What `docker login` has kept is not used: {err.message}")
        return None


def _typed(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise errors.Unauthenticated("a password is wanted, and there is no terminal to ask for it")
    return getpass.getpass(f"{prompt}: ")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Without ``platforms`` this machine's own is fetched, or all with ``all_platforms``."""

    platforms: Sequence[Platform] = ()
    all_platforms: bool = False
    snapshotter: str = ""
    unpack: bool = True


def pull(client: Client, name: str, wanted: Wanted, access: Access, quiet: bool) -> Image:
    """Fetches the image of the full reference ``name``."""
    clock = progress_bars.Clock()
    with progress_bars.shown(quiet) as shown:
        image = client.images.pull(
            access.registry(name, shown),
            platforms=wanted.platforms,
            all_platforms=wanted.all_platforms,
            unpack=wanted.unpack,
            snapshotter=wanted.snapshotter,
            progress=shown.tell,
        )
    _told(client, image, clock, quiet)
    return image


def push(
    client: Client, image: Image, reference: str, platforms: Sequence[Platform], access: Access, quiet: bool
) -> None:
    """Sends the image to where the full ``reference`` says."""
    clock = progress_bars.Clock()
    with progress_bars.shown(quiet) as shown:
        client.images.push(image, access.registry(reference, shown), platforms=platforms, progress=shown.tell)
    if not quiet:
        command.say(f"{reference}: {tables.short(image.target.digest)} sent in {clock}")


def import_(client: Client, path: Path, name: str, wanted: Wanted, quiet: bool) -> Sequence[Image]:
    """Of an archive, a directory with an image layout, or the standard input as ``-``."""
    clock = progress_bars.Clock()
    with _archive(path) as file, _named(path), progress_bars.shown(quiet) as shown:
        images = client.images.import_(
            file,
            name=name,
            names=[_AS_THEY_ARE],
            platforms=wanted.platforms,
            all_platforms=wanted.all_platforms,
            unpack=wanted.unpack,
            snapshotter=wanted.snapshotter,
            progress=shown.tell,
        )
    if not images:
        raise command.Failure(f"{path} names no image", "Give it a name with --name.")
    for image in images:
        _told(client, image, clock, quiet)
    return images


def export(client: Client, images: Sequence[Image], file: BinaryIO, wanted: Wanted, docker: bool, quiet: bool) -> None:
    with progress_bars.shown(quiet) as shown:
        client.images.export(
            images,
            file,
            platforms=wanted.platforms,
            all_platforms=wanted.all_platforms,
            docker=docker,
            progress=shown.tell,
        )


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[BinaryIO]:
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    from plugin_sdk.distribution.archive import directories

    with directories.opened(path) as file:
        yield file


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """What is wrong with an archive is told with its name."""
    try:
        yield
    except errors.InvalidArgument as err:
        raise errors.InvalidArgument(f"{path}: {err.message}") from err


def _told(client: Client, image: Image, clock: progress_bars.Clock, quiet: bool) -> None:
    if not quiet:
        size = sum(blob.size for blob in manifests.walk(client.content, image.target))
        command.say(f"{image.name}: {tables.short(image.target.digest)}, {tables.size(size)} in {clock}")
