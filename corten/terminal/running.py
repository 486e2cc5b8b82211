"""Run: an image becomes a container, a task, and an exit code."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from corten import manifests
from corten.specs import SpecOptions
from corten.streams import PIPE
from corten.terminal import foreground, naming, places
from plugin_sdk import errors, platforms
from plugin_sdk.images import Image
from plugin_sdk.platforms import Platform

if TYPE_CHECKING:
    from corten.client import Client
    from corten.containers import Container
    from corten.tasks import Task

MISSING, ALWAYS, NEVER = PULLS = ("missing", "always", "never")

Pull = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """``address`` is the daemon's, beside which FIFOs lie; ``spec`` what is not as the image says. An ``entrypoint``
    replaces the image's, and its command with it."""

    address: str
    image: str
    name: str = ""
    args: Sequence[str] = ()
    rm: bool = False
    detach: bool = False
    interactive: bool = False
    terminal: bool = False
    pull: str = MISSING
    platform: Platform | None = None
    entrypoint: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    snapshotter: str = ""
    runtime: str = ""
    spec: SpecOptions = field(default_factory=SpecOptions)


def run(client: Client, options: Options, pull: Pull, started: Callable[[Container], None]) -> int:
    """Runs to the end and answers the exit code; 0 with ``detach``, or when the user detaches.

    ``pull`` fetches an image by its full name, ``started`` is called when the container is left in the background."""
    image = _image(client, options, pull)
    container = _create(client, options, image)
    if options.detach:
        with _undone(container):
            _background_task(container, options).start()
        started(container)
        return 0
    ended = _run_in_foreground(container, options)
    if ended is None:
        started(container)
        return 0
    if options.rm:
        remove(container)
    else:
        places.remove({places.FIFO_LABEL: container.labels[places.FIFO_LABEL]})
    return ended


def _image(client: Client, options: Options, pull: Pull) -> Image:
    if options.pull != ALWAYS:
        try:
            return _of_platform(client, naming.image(client, options.image), options.platform)
        except errors.NotFound:
            if options.pull == NEVER:
                raise
    full = naming.full(options.image)
    pull(full)
    return _of_platform(client, client.images.get(full), options.platform)


def _of_platform(client: Client, image: Image, platform: Platform | None) -> Image:
    """The record with that platform's manifest as its target. Raises NotFound when the content is not there."""
    chosen = manifests.choose(client.content, image.target, platform)
    config = manifests.config(client.content, chosen)
    if platform is None:
        return image
    if platforms.rank(platform, config.platform) is None:
        raise errors.NotFound(f'no match for platform {platform} in image "{image.name}": not found')
    return replace(image, target=chosen.target)


def _create(client: Client, options: Options, image: Image) -> Container:
    name = options.name or naming.for_container(image.name)
    _check_free(client, name)
    labels = dict(options.labels)
    namespace = client.scope.namespace
    if options.detach and not options.terminal:
        labels[places.LOG_LABEL] = str(places.log(options.address, namespace, name))
    if not options.detach or options.terminal or options.interactive:
        labels[places.FIFO_LABEL] = str(places.fifos(options.address, namespace, name))
    if stop := client.images.config(image).stop_signal:
        labels[places.STOP_LABEL] = stop
    return client.containers.create(
        name,
        image=image,
        snapshotter=options.snapshotter,
        runtime=options.runtime,
        labels=labels,
        **_spec_options(options),
    )


def _check_free(client: Client, name: str) -> None:
    """Before anything is made; else the snapshot of that name would be the one that is there already."""
    try:
        client.containers.get(name)
    except errors.NotFound:
        return
    raise errors.AlreadyExists(f'container "{name}": already exists')


def _spec_options(options: Options) -> SpecOptions:
    given: SpecOptions = {**options.spec, "args": options.args, "terminal": options.terminal}
    if options.entrypoint is not None:
        given["entrypoint"] = [options.entrypoint] if options.entrypoint else []
    return given


@contextlib.contextmanager
def _undone(container: Container) -> Iterator[None]:
    """What does not start leaves nothing."""
    try:
        yield
    except BaseException:
        remove(container)
        raise


def _background_task(container: Container, options: Options) -> Task:
    fifos = Path(container.labels.get(places.FIFO_LABEL, ""))
    if options.terminal:
        stdin, stdout = _made(fifos, "stdin"), _made(fifos, "stdout")
        return container.new_task(stdin=stdin, stdout=stdout, terminal=True)
    log = Path(container.labels[places.LOG_LABEL])
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log.unlink(missing_ok=True)  # of an earlier one of that name
    into = f"file://{log}"
    return container.new_task(
        stdin=_made(fifos, "stdin") if options.interactive else None, stdout=into, stderr=into, terminal=False
    )


def _made(folder: Path, name: str) -> str:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / name
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    return str(path)


def _run_in_foreground(container: Container, options: Options) -> int | None:
    folder = Path(container.labels[places.FIFO_LABEL])
    with contextlib.ExitStack() as stack:
        with _undone(container):
            places.remove({places.FIFO_LABEL: str(folder)})
            stack.enter_context(held(folder))
            task = container.new_task(
                stdin=PIPE if options.interactive else None,
                stdout=1,
                stderr=None if options.terminal else 2,
                terminal=options.terminal,
                folder=folder,
            )
        with foreground.Foreground(task, options.terminal, options.interactive) as front:
            with _undone(container):
                task.start()
            front.started()
            ended = front.wait()
    if ended is None:
        return None
    task.delete()
    return ended.status


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """As long as we read a container's FIFOs: two readers would each get a part. Raises FailedPrecondition when another
    one does."""
    import fcntl

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise errors.FailedPrecondition(f'container "{folder.name}" is attached to elsewhere') from None
    finally:
        os.close(descriptor)


def remove(container: Container) -> None:
    """Ends what runs in it, and removes it with its snapshot, its log and its FIFOs."""
    with contextlib.suppress(errors.NotFound):
        container.task().delete(kill=True)
    with contextlib.suppress(errors.NotFound):
        container.delete()
    places.remove(container.labels)
