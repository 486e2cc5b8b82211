"""The same wanted by many is done once."""

import threading

import pytest

from plugin_sdk import errors, oci, platforms, transfer
from plugin_sdk.distribution import graph, pulling, sharing
from plugin_sdk.distribution.job import Job
from tests import fake_registry, kernels

UNPACK = [transfer.Unpack(platforms.Platform("linux", "amd64"))]
MANY = 10


class Work:
    """Ends when it is let."""

    def __init__(self, log):
        self.log = log
        self.go = threading.Event()
        self.begun = threading.Event()
        self.failure = None

    def run(self, flight):
        self.log.append("run")
        self.begun.set()
        flight.tell(len(self.log))
        try:
            while not self.go.wait(0.01):
                flight.check()
        except errors.Canceled:
            self.log.append("canceled")
            raise
        if self.failure:
            raise self.failure
        return "done"


class Waiter(threading.Thread):
    def __init__(self, flights, begin, owner="me", listen=lambda step: None):
        super().__init__(daemon=True)
        self.result = self.failure = None
        self.gone = threading.Event()
        self._join = lambda: flights.joined("key", owner, begin, self._check, listen)
        self.start()

    def _check(self):
        if self.gone.is_set():
            raise errors.Canceled("gone")

    def run(self):
        try:
            with self._join() as flight:
                self.result = flight.result
        except errors.Error as err:
            self.failure = err

    def ended(self):
        self.join(60)
        return self.failure or self.result


@pytest.fixture
def flights():
    return sharing.Flights()


def test_a_flight_that_cannot_begin_is_told_and_not_waited_for(flights, monkeypatch):
    looks = []

    def start(thread):
        raise RuntimeError("can't start new thread")

    def check():
        looks.append(1)
        assert len(looks) < 20, "it waits for a flight that has not begun"

    monkeypatch.setattr(threading.Thread, "start", start)
    joined = flights.joined("key", "me", lambda: Work([]), check)
    with pytest.raises(errors.ResourceExhausted, match="no more threads"), joined:
        pass
    monkeypatch.undo()
    begun = Work([])
    begun.go.set()
    with flights.joined("key", "me", lambda: begun, check) as flight:
        assert flight.result == "done"


def test_all_who_wait_get_the_result_of_one(flights):
    log = []
    work = Work(log)
    heard = []
    waiters = [Waiter(flights, lambda: work, listen=heard.append) for _ in range(MANY)]
    wait_until(lambda: len(heard) == MANY)
    work.go.set()
    assert [waiter.ended() for waiter in waiters] == ["done"] * MANY
    assert log == ["run"]


def wait_until(condition):
    tick = threading.Event()
    for _ in range(3000):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("it did not come")


def test_one_that_goes_does_no_harm_to_the_others(flights):
    work = Work([])
    heard = []
    first = Waiter(flights, lambda: work, listen=heard.append)
    work.begun.wait(60)
    others = [Waiter(flights, lambda: work, listen=heard.append) for _ in range(2)]
    wait_until(lambda: len(heard) == 3)
    first.gone.set()
    assert isinstance(first.ended(), errors.Canceled)
    work.go.set()
    assert [other.ended() for other in others] == ["done", "done"]


def test_when_all_have_gone_the_work_ends(flights):
    log = []
    work = Work(log)
    waiters = [Waiter(flights, lambda: work) for _ in range(2)]
    work.begun.wait(60)
    for waiter in waiters:
        waiter.gone.set()
    assert all(isinstance(waiter.ended(), errors.Canceled) for waiter in waiters)
    assert log == ["run", "canceled"]


def test_after_its_end_the_next_begins_anew(flights):
    log = []
    for _ in range(2):
        work = Work(log)
        work.go.set()
        assert Waiter(flights, lambda work=work: work).ended() == "done"
    assert log == ["run", "run"]


def test_while_one_stays_the_next_finds_the_result(flights):
    log = []
    work = Work(log)
    work.go.set()
    with flights.joined("key", "me", lambda: work, lambda: None):
        assert Waiter(flights, lambda: work).ended() == "done"
    assert log == ["run"]


def test_a_failure_is_everyones_on_the_same_account(flights):
    work = Work([])
    work.failure = errors.NotFound("it is not there")
    heard = []
    waiters = [Waiter(flights, lambda: work, listen=heard.append) for _ in range(3)]
    wait_until(lambda: len(heard) == 3)
    work.go.set()
    failures = [waiter.ended() for waiter in waiters]
    assert all(isinstance(failure, errors.NotFound) for failure in failures)
    assert len(set(map(id, failures))) == 3


@pytest.mark.parametrize(
    ("failure", "owner"), [(errors.NotFound("gone"), "other"), (errors.Unauthenticated("who are you"), "me")]
)
def test_a_failure_that_may_be_anothers_own_is_tried_again(flights, failure, owner):
    bad, good = Work([]), Work([])
    bad.failure = failure
    first = Waiter(flights, lambda: bad)
    bad.begun.wait(60)
    heard = []
    second = Waiter(flights, lambda: good, owner, heard.append)
    wait_until(lambda: heard)
    good.go.set()
    bad.go.set()
    assert first.ended().message == failure.message
    assert second.ended() == "done"


def test_what_a_listener_raises_is_its_own_matter(flights):
    def listen(step):
        raise errors.Aborted("not me")

    work = Work([])
    heard = []
    good = Waiter(flights, lambda: work, listen=heard.append)
    wait_until(lambda: heard)
    assert isinstance(Waiter(flights, lambda: work, listen=listen).ended(), errors.Aborted)
    work.go.set()
    assert good.ended() == "done"


def test_what_is_held_stays_until_the_last_has_left(flights):
    class Holding(Work):
        def run(self, flight):
            flight.hold(self)
            return super().run(flight)

        def __enter__(self):
            self.log.append("held")

        def __exit__(self, *failure):
            self.log.append("freed")

    work = Holding([])
    work.go.set()
    with flights.joined("key", "me", lambda: work, lambda: None):
        assert Waiter(flights, lambda: work).ended() == "done"
        assert work.log == ["held", "run"]
    assert work.log == ["held", "run", "freed"]


# --- pulls


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with kernels.running(tmp_path_factory.mktemp("daemon")) as made:
        yield made


@pytest.fixture
def rig(kernel, request):
    return kernels.Rig(kernel, "s" + oci.digest_of(request.node.name.encode())[7:19])


class Pull(threading.Thread):
    def __init__(self, rig, namespace=""):
        super().__init__(daemon=True)
        self._rig = rig
        self._namespace = namespace or rig.namespace
        self._steps = []
        self.gone = threading.Event()
        self.failure = None
        self.start()

    def run(self):
        store = transfer.ImageStore(kernels.NAME, unpacks=UNPACK)
        job = Job(self._rig.kernel, self._namespace, progress=self._steps.append, check=self._check)
        try:
            pulling.pull(job, self._rig.registry.connect(kernels.NAME), store, self._rig.settings)
        except errors.Error as err:
            self.failure = err

    def _check(self):
        if self.gone.is_set():
            raise errors.Canceled("gone")

    def moved(self, of):
        return any(step.name == graph.ref(of) and step.progress for step in self._steps)

    def ended(self):
        self.join(120)
        assert not self.is_alive()
        return self.failure


class Gate:
    """Holds a layer's download in its middle until it is opened."""

    def __init__(self, registry, layer):
        self.reached, self.opened = threading.Event(), threading.Event()
        self._middle = (layer.digest, layer.size // 2)
        registry.before_chunk = self._look

    def _look(self, of, offset):
        if of.digest == self._middle[0] and offset > self._middle[1]:
            self.reached.set()
            assert self.opened.wait(60)


@pytest.mark.root
def test_a_layer_that_many_pulls_want_is_fetched_and_unpacked_once(rig):
    image = rig.image(size=1_000_000, tag="1")
    gate = Gate(rig.registry, image.layers[0])
    namespaces = [rig.namespace + suffix for suffix in "ab"]
    pulls = [Pull(rig, namespaces[number % 2]) for number in range(MANY)]
    assert gate.reached.wait(60)
    gate.opened.set()
    assert [pull.ended() for pull in pulls] == [None] * MANY
    assert all(rig.registry.asked("fetch", layer.digest) == [0] for layer in image.layers)
    assert all(rig.registry.served[layer.digest] == layer.size for layer in image.layers)
    for namespace in namespaces:
        assert set(rig.blobs(namespace)) == {of.digest for of in image.blobs}
        assert set(rig.snapshots(namespace)) == set(image.chains)


@pytest.mark.root
def test_the_first_that_is_cancelled_does_no_harm_to_the_second(rig):
    image = rig.image(count=1, size=1_000_000, tag="1")
    layer = image.layers[0]
    gate = Gate(rig.registry, layer)
    first = Pull(rig)
    assert gate.reached.wait(60)
    second = Pull(rig)
    wait_until(lambda: second.moved(layer))
    first.gone.set()
    assert isinstance(first.ended(), errors.Canceled)
    gate.opened.set()
    assert second.ended() is None
    assert rig.registry.asked("fetch", layer.digest) == [0]
    rig.sweep()
    assert rig.has_only(*image.blobs)
    assert set(rig.snapshots()) == set(image.chains)


@pytest.mark.root
def test_two_images_share_the_layer_that_both_have(rig):
    base = rig.image(count=1, size=1_000_000, tag="1")
    document = {"schemaVersion": 2, "config": fake_registry.told(base.config)}
    document["layers"] = [fake_registry.told(base.layers[0])]
    document["annotations"] = {"a": "b"}
    rig.registry.tags["2"] = rig.registry.add(oci.MANIFEST, document)
    gate = Gate(rig.registry, base.layers[0])
    first = Pull(rig)
    assert gate.reached.wait(60)
    failures = []

    def second():
        try:
            rig.pull(reference="registry.example/b:2", unpacks=UNPACK)
        except errors.Error as err:
            failures.append(err)

    thread = threading.Thread(target=second)
    thread.start()
    gate.opened.set()
    thread.join(60)
    assert first.ended() is None
    assert not failures
    assert rig.registry.asked("fetch", base.layers[0].digest) == [0]
    source = "containerd.io/distribution.source.registry.example"
    assert rig.blobs()[base.layers[0].digest].labels[source] == "app,b"
