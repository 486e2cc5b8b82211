"""The asynchronous face of the client: that it is as the library is, and how its parts end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

import corten
from corten import aio, awaiting
from plugin_sdk import errors, transfer
from plugin_sdk.scope import Scope
from scripts import aio as generator


def test_it_is_as_the_library_is() -> None:
    assert generator.formatted(generator.TARGET.read_text()) == generator.written(), "run: python -m scripts.aio"


def test_every_exported_name_is_there() -> None:
    assert all(hasattr(aio, name) for name in aio.__all__)
    assert all(hasattr(corten, name) for name in corten.__all__)


def test_a_call_runs_elsewhere_and_answers() -> None:
    async def main() -> tuple[int, int]:
        return await awaiting.call(lambda: (threading.get_ident(), threading.get_ident()))

    assert threading.get_ident() not in asyncio.run(main())


def test_what_a_call_raises_is_raised() -> None:
    def fail() -> None:
        raise errors.NotFound("nothing")

    with pytest.raises(errors.NotFound, match="nothing"):
        asyncio.run(awaiting.call(fail))


class Waiting:
    """A channel whose calls last until they are cancelled."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.canceled = threading.Event()

    def unary(self, service: str, method: object, request: object, scope: Scope) -> None:
        scope.on_cancel(self.canceled.set)
        self.begun.set()
        self.canceled.wait(60)
        raise errors.Canceled("the caller has gone away")


def test_a_cancelled_task_cancels_the_call() -> None:
    channel, scope = Waiting(), Scope("default")
    linked = awaiting.Linked(channel)  # type: ignore[arg-type]

    async def main() -> None:
        task = asyncio.create_task(awaiting.call(linked.unary, "service", None, None, scope))  # type: ignore[arg-type]
        await awaiting.call(channel.begun.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert channel.canceled.is_set()
    scope.check()  # that of the client goes on


def test_a_scope_does_not_keep_what_has_ended() -> None:
    class Answering:
        def unary(self, service: str, method: object, request: object, scope: Scope) -> Scope:
            return scope

    scope = Scope("default", "lease", 1e12)
    linked = awaiting.Linked(Answering())  # type: ignore[arg-type]
    used = asyncio.run(awaiting.call(linked.unary, "service", None, None, scope))  # type: ignore[arg-type]
    assert (used.namespace, used.lease, used.deadline) == ("default", "lease", 1e12)  # type: ignore[attr-defined]
    scope.cancel()
    used.check()  # type: ignore[attr-defined]


def counted(limit: int, made: list[int]) -> Callable[[], Iterator[int]]:
    def begin() -> Iterator[int]:
        for number in range(limit):
            made.append(number)
            yield number

    return begin


def test_an_iteration_gives_all_in_order() -> None:
    async def main() -> list[int]:
        return [number async for number in awaiting.Iteration(counted(1000, []))]

    assert asyncio.run(main()) == list(range(1000))


def test_an_iteration_does_not_run_away() -> None:
    made: list[int] = []

    async def main() -> None:
        async with awaiting.Iteration(counted(10**9, made)) as numbers:
            async for number in numbers:
                if number == 10:
                    break

    asyncio.run(main())
    assert len(made) < 1000


def test_an_iteration_raises_what_is_raised() -> None:
    def begin() -> Iterator[int]:
        yield 1
        raise errors.Unavailable("gone")

    async def main() -> None:
        seen = []
        with pytest.raises(errors.Unavailable, match="gone"):
            async for number in awaiting.Iteration(begin):
                seen.append(number)
        assert seen == [1]

    asyncio.run(main())


STEPS = [transfer.Progress("fetching", "layer", progress=number, total=9) for number in range(10)]


def work(*, progress: transfer.Report) -> str:
    for step in STEPS:
        progress(step)
    return "done"


def test_steps_can_be_followed() -> None:
    with corten.follow(work) as steps:
        assert list(steps) == STEPS
    assert steps.result() == "done"


def test_what_is_followed_raises_at_its_end() -> None:
    def fail(*, progress: transfer.Report) -> None:
        progress(STEPS[0])
        raise errors.DataLoss("broken")

    with corten.follow(fail) as steps, pytest.raises(errors.DataLoss, match="broken"):
        list(steps)
    with pytest.raises(errors.DataLoss, match="broken"):
        steps.result()


def test_what_nobody_follows_ends() -> None:
    def endless(*, progress: transfer.Report) -> None:
        while True:
            progress(STEPS[0])

    with corten.follow(endless) as steps:
        next(steps)
    with pytest.raises(errors.Canceled):
        steps.result()


def test_steps_can_be_followed_asynchronously() -> None:
    async def pull(*, progress: transfer.Report) -> str:
        return await awaiting.call(work, progress=progress)

    async def main() -> None:
        async with aio.follow(pull) as steps:
            assert [step async for step in steps] == STEPS
        assert await steps.result() == "done"

    asyncio.run(main())
