from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from plugin_sdk import errors
from plugin_sdk.wire import edge
from plugin_sdk.wire.resumption import Resumption, Wakeups


def make_call(lane: edge.Lane) -> edge.Call:
    return edge.Edge(lambda name: lane).call(False, {}, lambda: "test", None)


def test_the_task_goes_on_at_once() -> None:
    async def main() -> None:
        order: list[str] = []
        resumption = Resumption(asyncio.get_running_loop())

        async def waits() -> None:
            await resumption
            order.append("resumed")

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)

        def resume() -> None:
            resumption.resume()
            order.append("back")

        asyncio.get_running_loop().call_soon(resume)
        await task
        assert order == ["resumed", "back"]

    asyncio.run(main())


def test_what_has_ended_before_is_not_waited_for() -> None:
    async def main() -> None:
        resumption = Resumption(asyncio.get_running_loop())
        resumption.resume()
        resumption.resume()
        await resumption

    asyncio.run(main())


def test_one_who_waits_can_be_cancelled() -> None:
    async def main() -> None:
        resumption = Resumption(asyncio.get_running_loop())
        task = asyncio.ensure_future(resumption)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        resumption.resume()  # too late, and no error

    asyncio.run(main())


def test_a_timeout_ends_the_wait() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await Resumption(asyncio.get_running_loop())

    asyncio.run(main())


def test_all_that_ends_in_many_threads_is_resumed() -> None:
    async def main() -> None:
        wakeups, loop = Wakeups(), asyncio.get_running_loop()
        waiting = [Resumption(loop) for _ in range(2000)]

        async def waits(resumption: Resumption) -> None:
            await resumption

        tasks = [asyncio.create_task(waits(each)) for each in waiting]
        parts = [threading.Thread(target=lambda s=s: [wakeups.resume(r) for r in waiting[s::8]]) for s in range(8)]
        for part in parts:
            part.start()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        for part in parts:
            part.join()

    asyncio.run(main())


def test_a_thread_that_ends_after_the_loop_does_no_harm() -> None:
    async def main() -> Resumption:
        return Resumption(asyncio.get_running_loop())

    Wakeups().resume(asyncio.run(main()))


def test_results_and_errors_come_back() -> None:
    async def main() -> None:
        with ThreadPoolExecutor(2) as threads:
            call = make_call(threads)
            assert await call.run(divmod, 7, 2) == (3, 1)
            with pytest.raises(ZeroDivisionError):
                await call.run(divmod, 7, 0)

    asyncio.run(main())


def test_work_that_has_not_begun_is_dropped_when_the_call_is_cancelled() -> None:
    async def main() -> None:
        gate, done = threading.Event(), []
        with ThreadPoolExecutor(1) as threads:
            call = make_call(threads)
            threads.submit(gate.wait)
            task = asyncio.create_task(call.run(done.append, 1))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.set()
        assert done == []

    asyncio.run(main())


def test_work_that_has_begun_is_waited_for_when_the_call_is_cancelled() -> None:
    async def main() -> None:
        begun, gate = threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            gate.wait()

        with ThreadPoolExecutor(1) as threads:
            call = make_call(threads)
            canceled = threading.Event()
            call.scope.on_cancel(canceled.set)
            task = asyncio.create_task(call.run(work))
            await asyncio.to_thread(begun.wait)
            task.cancel()
            await asyncio.sleep(0.05)
            assert canceled.is_set()
            assert not task.done()
            gate.set()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_a_second_cancel_does_not_wait_for_the_work() -> None:
    async def main() -> None:
        begun, gate = threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            gate.wait()

        with ThreadPoolExecutor(1) as threads:
            task = asyncio.create_task(make_call(threads).run(work))
            await asyncio.to_thread(begun.wait)
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0.01)
            assert task.cancelled()
            gate.set()

    asyncio.run(main())


class Closed:
    """A lane that drops what waits."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.cancel()
        return future


def test_work_that_its_lane_drops_is_unavailable() -> None:
    with pytest.raises(errors.Unavailable):
        asyncio.run(make_call(Closed()).run(int))
