"""The threads of one transfer begin, fail and end together."""

import threading

import pytest

from plugin_sdk import errors
from plugin_sdk.distribution.crew import Crew


def never():
    """Nobody goes away."""


def test_leaving_waits_for_all():
    done = []
    with Crew(never, at_once=2) as crew:
        for number in range(20):
            crew.queue(lambda number=number: done.append(number))
        crew.start(lambda: done.append("a"))
    assert sorted(map(str, done)) == sorted([*map(str, range(20)), "a"])


def test_what_is_queued_is_done_by_so_many_threads_at_most():
    running, most, lock = [], [], threading.Lock()
    both = threading.Barrier(2)

    def work():
        with lock:
            running.append(1)
            most.append(len(running))
        both.wait(60)
        with lock:
            running.pop()

    with Crew(never, at_once=2) as crew:
        for _ in range(10):
            crew.queue(work)
    assert max(most) == 2


def test_the_first_error_ends_the_others_and_is_raised():
    ended = []

    def patient():
        with pytest.raises(errors.Canceled):
            while True:
                crew.check()
                threading.Event().wait(0.01)
        ended.append(1)

    def bad():
        raise errors.NotFound("it is not there")

    with pytest.raises(errors.NotFound, match="it is not there"), Crew(never) as crew:
        crew.start(patient)
        crew.start(bad)
    assert ended


def test_after_an_error_what_is_queued_does_not_begin():
    done = []

    def bad():
        raise errors.NotFound("it is not there")

    with pytest.raises(errors.NotFound), Crew(never, at_once=1) as crew:
        crew.queue(bad)
        crew.queue(lambda: done.append(1))
    assert not done


def test_a_caller_that_goes_ends_all():
    gone = threading.Event()

    def check():
        if gone.is_set():
            raise errors.Canceled("the caller has gone")

    def patient():
        gone.set()
        while True:
            crew.check()
            threading.Event().wait(0.01)

    with pytest.raises(errors.Canceled, match="the caller"), Crew(check) as crew:
        crew.start(patient)


def test_an_error_of_the_context_itself_ends_all():
    ended = threading.Event()

    def patient():
        with pytest.raises(errors.Canceled):
            while True:
                crew.check()
                threading.Event().wait(0.01)
        ended.set()

    with pytest.raises(KeyboardInterrupt), Crew(never) as crew:
        crew.start(patient)
        raise KeyboardInterrupt
    assert ended.is_set()


@pytest.mark.parametrize("begin", [Crew.start, Crew.queue])
def test_a_thread_that_cannot_begin_is_told_and_not_waited_for(monkeypatch, begin):
    real, failures = threading.Thread.start, []

    def start(thread):
        if thread.name == "transfer":
            raise RuntimeError("can't start new thread")
        real(thread)

    def transfer():
        try:
            with Crew(never, at_once=1) as crew:
                begin(crew, never)
        except errors.Error as err:
            failures.append(err)

    monkeypatch.setattr(threading.Thread, "start", start)
    waiting = threading.Thread(target=transfer, daemon=True)
    waiting.start()
    waiting.join(20)
    assert [type(err) for err in failures] == [errors.ResourceExhausted]
