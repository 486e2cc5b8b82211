"""The suite for daemons: what ``plugin_sdk.daemon`` and the contracts of its nouns promise, inside and over a socket.

A subclass gives ``daemon``, which needs a content store, a snapshotter ``native`` and no tasks. Each test works in a
namespace of its own, which need not be emptied::

    class TestMine(daemon.DaemonSuite):
        @pytest.fixture
        def daemon(self):
            with corten.connect(address) as connection:
                yield connection
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from plugin_sdk import containers, content, errors, events, images, leases, namespaces, oci, plugin, runtime
from plugin_sdk import daemon as contract

SNAPSHOTTER = "native"
TARGET = oci.Descriptor(oci.MANIFEST, "sha256:" + "1" * 64, 7, {"kind": "a.b/c"})
OTHER = oci.Descriptor(oci.INDEX, "sha256:" + "2" * 64, 8)
SPEC = runtime.Any("types.containerd.io/opencontainers/runtime-spec/1/Spec", b'{"ociVersion":  "1.0.2"}')
CONTAINER = containers.Container("c", containers.Runtime("io.example.v1"), SPEC, image="i", labels={"a": "b"})


def put(view: contract.View, data: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    with view.content.writer(f"put-{digest}", len(data), digest) as writer:
        writer.write(data[writer.status().offset :])
        return writer.commit(len(data), digest)


class DaemonSuite:
    @pytest.fixture
    def daemon(self) -> contract.Daemon:
        raise NotImplementedError("a subclass gives the daemon")

    @pytest.fixture
    def namespace(self) -> str:
        return f"suite-{uuid.uuid4().hex[:12]}"

    @pytest.fixture
    def view(self, daemon: contract.Daemon, namespace: str) -> contract.View:
        return daemon.view(namespace)

    # --- plugins

    def test_plugins_are_told(self, daemon: contract.Daemon) -> None:
        [info] = daemon.plugins([f"type=={plugin.SNAPSHOTTER}, id=={SNAPSHOTTER}"])
        assert (info.kind, info.id, info.error, info.skipped) == (plugin.SNAPSHOTTER, SNAPSHOTTER, "", False)
        assert info.platforms
        assert info.exports["root"].startswith("/")
        assert any(each.kind == plugin.CONTENT for each in daemon.plugins())

    def test_a_malformed_filter_is_refused(self, daemon: contract.Daemon) -> None:
        with pytest.raises(errors.InvalidArgument):
            daemon.plugins(["type=="])

    # --- namespaces

    def test_a_namespace_is_made_changed_and_removed(self, daemon: contract.Daemon, namespace: str) -> None:
        store = daemon.namespaces
        assert store.create(namespaces.Namespace(namespace, {"a": "b"})) == namespaces.Namespace(namespace, {"a": "b"})
        with pytest.raises(errors.AlreadyExists, match=namespace):
            store.create(namespaces.Namespace(namespace))
        store.update(namespaces.Namespace(namespace, {"x.y/z": "1"}), ["labels.x.y/z"])
        assert store.get(namespace).labels == {"a": "b", "x.y/z": "1"}
        assert namespace in [each.name for each in store.list()]
        store.delete(namespace)
        with pytest.raises(errors.NotFound, match=namespace):
            store.delete(namespace)

    def test_a_namespace_that_is_not_there_has_no_labels(self, daemon: contract.Daemon, namespace: str) -> None:
        assert daemon.namespaces.get(namespace) == namespaces.Namespace(namespace)
        assert namespace not in [each.name for each in daemon.namespaces.list()]

    def test_the_first_write_makes_the_namespace(
        self, daemon: contract.Daemon, view: contract.View, namespace: str
    ) -> None:
        view.images.create(images.Image("i", TARGET))
        assert namespace in [each.name for each in daemon.namespaces.list()]
        with pytest.raises(errors.FailedPrecondition, match=namespace):
            daemon.namespaces.delete(namespace)

    def test_namespaces_see_nothing_of_each_other(self, daemon: contract.Daemon, view: contract.View) -> None:
        view.images.create(images.Image("i", TARGET))
        view.containers.create(CONTAINER)
        other = daemon.view(f"suite-{uuid.uuid4().hex[:12]}")
        assert not other.images.list()
        with pytest.raises(errors.NotFound):
            other.containers.get("c")

    def test_a_malformed_namespace_is_refused(self, daemon: contract.Daemon) -> None:
        with pytest.raises(errors.InvalidArgument):
            daemon.view("no/name").images.list()

    # --- images

    def test_an_image_is_kept_as_given(self, view: contract.View) -> None:
        made = view.images.create(images.Image("a/b:c", TARGET, {"x": "y", "empty": ""}))
        assert made == view.images.get("a/b:c")
        assert (made.target, made.labels) == (TARGET, {"x": "y"})
        assert made.created_at == made.updated_at > 0
        with pytest.raises(errors.AlreadyExists, match="a/b:c"):
            view.images.create(images.Image("a/b:c", TARGET))

    def test_named_fields_of_an_image_are_replaced(self, view: contract.View) -> None:
        view.images.create(images.Image("i", TARGET, {"a": "1", "b": "2"}))
        changed = view.images.update(images.Image("i", OTHER, {"a": "3", "b": "4"}), ["labels.a"])
        assert (changed.target, changed.labels) == (TARGET, {"a": "3", "b": "2"})
        changed = view.images.update(images.Image("i", OTHER), ["target"])
        assert (changed.target, changed.labels) == (OTHER, {"a": "3", "b": "2"})
        changed = view.images.update(images.Image("i", TARGET, {"c": "5"}))
        assert (changed.target, changed.labels) == (TARGET, {"c": "5"})
        with pytest.raises(errors.InvalidArgument):
            view.images.update(images.Image("i", OTHER), ["size"])

    @pytest.mark.parametrize(
        "image",
        [
            images.Image("", TARGET),
            images.Image("i", replace(TARGET, digest="sha256:1")),
            images.Image("i", replace(TARGET, size=0)),
            images.Image("i", replace(TARGET, media_type="")),
            images.Image("i", TARGET, {"x" * 2000: "y" * 2097}),
        ],
    )
    def test_a_wrong_image_is_refused(self, view: contract.View, image: images.Image) -> None:
        with pytest.raises(errors.InvalidArgument):
            view.images.create(image)
        assert not view.images.list()

    def test_images_are_found_by_filters(self, view: contract.View) -> None:
        view.images.create(images.Image("a:1", TARGET, {"x.y/z": "1"}))
        view.images.create(images.Image("b:1", OTHER))

        def names(*filters: str) -> list[str]:
            return sorted(image.name for image in view.images.list(filters))

        assert names() == ["a:1", "b:1"]
        assert names("name==a:1", f"target.digest=={OTHER.digest}") == ["a:1", "b:1"]
        assert names('labels."x.y/z"') == ["a:1"]
        assert names("name~=^b,labels.x") == []
        with pytest.raises(errors.InvalidArgument):
            names("name==")

    def test_an_image_is_removed_only_while_it_points_there(self, view: contract.View) -> None:
        view.images.create(images.Image("i", TARGET))
        with pytest.raises(errors.NotFound):
            view.images.delete("i", target=OTHER)
        view.images.delete("i", target=TARGET)
        for gone in (view.images.get, view.images.delete):
            with pytest.raises(errors.NotFound, match="i"):
                gone("i")

    # --- containers

    def test_a_container_is_kept_byte_for_byte(self, view: contract.View) -> None:
        extensions = {"x.y": runtime.Any("example/Thing", b"\x00\xff")}
        made = view.containers.create(replace(CONTAINER, extensions=extensions))
        assert made == view.containers.get("c")
        assert (made.spec, made.extensions, made.runtime) == (SPEC, extensions, CONTAINER.runtime)
        with pytest.raises(errors.AlreadyExists, match="c"):
            view.containers.create(CONTAINER)

    @pytest.mark.parametrize(
        "container",
        [
            replace(CONTAINER, id="no/id"),
            replace(CONTAINER, id=""),
            replace(CONTAINER, runtime=containers.Runtime("")),
            replace(CONTAINER, spec=runtime.Any()),
            replace(CONTAINER, snapshot_key="k"),
        ],
    )
    def test_a_wrong_container_is_refused(self, view: contract.View, container: containers.Container) -> None:
        with pytest.raises(errors.InvalidArgument):
            view.containers.create(container)
        assert not view.containers.list()

    def test_named_fields_of_a_container_are_replaced(self, view: contract.View) -> None:
        view.containers.create(CONTAINER)
        other = replace(CONTAINER, image="other", labels={"a": "c", "d": "e"})
        changed = view.containers.update(other, ["labels.d"])
        assert (changed.image, changed.labels) == ("i", {"a": "b", "d": "e"})
        changed = view.containers.update(other)
        assert (changed.image, changed.labels) == ("other", {"a": "c", "d": "e"})
        with pytest.raises(errors.InvalidArgument):
            view.containers.update(replace(other, runtime=containers.Runtime("another")))
        with pytest.raises(errors.NotFound):
            view.containers.update(replace(other, id="absent"))

    def test_a_container_is_removed_once(self, view: contract.View) -> None:
        view.containers.create(CONTAINER)
        view.containers.delete("c")
        with pytest.raises(errors.NotFound, match="c"):
            view.containers.delete("c")

    # --- leases

    def test_a_lease_is_made_listed_and_removed(self, view: contract.View) -> None:
        made = view.leases.create("l/1", {"a": "b"})
        assert (made.id, made.labels) == ("l/1", {"a": "b"})
        assert made.created_at > 0
        with pytest.raises(errors.AlreadyExists, match="l/1"):
            view.leases.create("l/1")
        assert [lease.id for lease in view.leases.list(["labels.a==b"])] == ["l/1"]
        view.leases.delete("l/1", sync=True)
        with pytest.raises(errors.NotFound, match="l/1"):
            view.leases.delete("l/1")

    def test_a_lease_that_is_not_there_is_refused(self, daemon: contract.Daemon, namespace: str) -> None:
        with pytest.raises(errors.NotFound, match="absent"):
            daemon.view(namespace, "absent").images.list()

    def test_what_is_made_or_found_under_a_lease_is_held_by_it(
        self, daemon: contract.Daemon, view: contract.View, namespace: str
    ) -> None:
        data = namespace.encode()
        for lease in ("first", "second"):
            view.leases.create(lease)
            leased = daemon.view(namespace, lease)
            if lease == "first":
                digest = put(leased, data)
                leased.snapshotter(SNAPSHOTTER).prepare("key")
                leased.images.create(images.Image("i", TARGET))
            else:
                with pytest.raises(errors.AlreadyExists):
                    put(leased, data)
                with pytest.raises(errors.AlreadyExists):
                    leased.snapshotter(SNAPSHOTTER).prepare("key")
            held = view.leases.list_resources(lease)
            assert leases.Resource(digest, "content") in held
            assert leases.Resource("key", f"snapshots/{SNAPSHOTTER}") in held
        view.snapshotter(SNAPSHOTTER).remove("key")

    def test_resources_are_added_and_taken_away(self, view: contract.View) -> None:
        view.leases.create("l")
        resource = leases.Resource("sha256:" + "3" * 64, "content")
        view.leases.add_resource("l", resource)
        assert list(view.leases.list_resources("l")) == [resource]
        view.leases.delete_resource("l", resource)
        assert list(view.leases.list_resources("l")) == []
        with pytest.raises(errors.Unimplemented):
            view.leases.add_resource("l", leases.Resource("x", "volumes"))
        with pytest.raises(errors.NotFound):
            view.leases.list_resources("absent")

    # --- content, snapshots, tasks: that they are reached; their own suites have the rest

    def test_content_is_reached(self, view: contract.View, namespace: str) -> None:
        digest = put(view, b"content of " + namespace.encode())
        with view.content.reader(digest) as reader:
            assert reader.read_at(0, reader.size) == b"content of " + namespace.encode()
        view.content.update(content.Info(digest, 0, labels={"a": "b"}), ["labels.a"])
        assert [info.digest for info in view.content.walk(["labels.a==b"])] == [digest]
        view.content.delete(digest)

    def test_snapshots_are_reached(self, view: contract.View) -> None:
        snapshotter = view.snapshotter(SNAPSHOTTER)
        assert snapshotter.prepare("key") == snapshotter.mounts("key")
        snapshotter.commit("name", "key")
        assert [info.name for info in snapshotter.walk()] == ["name"]
        snapshotter.remove("name")

    def test_a_snapshotter_that_is_not_there_is_refused(self, view: contract.View) -> None:
        with pytest.raises(errors.InvalidArgument, match="snapshotter not loaded: absent"):
            view.snapshotter("absent").stat("key")

    def test_an_unknown_media_type_is_unimplemented(self, view: contract.View) -> None:
        layer = oci.Descriptor("application/x-nothing", "sha256:" + "4" * 64, 1)
        with pytest.raises((errors.Unimplemented, errors.NotFound)):
            view.differ().apply(layer, [], view.content)

    def test_a_container_without_a_task_has_none(self, view: contract.View) -> None:
        view.containers.create(CONTAINER)
        assert not view.tasks.list()
        with pytest.raises(errors.NotFound):
            view.tasks.get("c")
        with pytest.raises(errors.NotFound):
            view.tasks.wait("c", timeout=5)

    # --- events

    @pytest.fixture
    def heard(self, view: contract.View, namespace: str) -> Iterator[list[events.Envelope]]:
        """What this namespace tells while the test runs."""
        heard: list[events.Envelope] = []
        begun = threading.Event()
        subscription = view.events.subscribe([f"namespace=={namespace}"])

        def listen() -> None:
            for envelope in subscription:
                heard.append(envelope)
                begun.set()

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        while not begun.wait(0.05):  # a subscription over a socket begins a little later
            view.events.publish("/suite/begin", runtime.Any("example", b""))
        yield heard
        subscription.close()
        listener.join(5)

    def test_changes_are_told_in_order_when_they_can_be_read(
        self, view: contract.View, heard: list[events.Envelope], namespace: str
    ) -> None:
        view.images.create(images.Image("i", TARGET))
        view.containers.create(CONTAINER)
        view.containers.delete("c")
        view.events.publish("/suite/end", runtime.Any("example", b"x"))
        ended = threading.Event()
        while not any(envelope.topic == "/suite/end" for envelope in heard):
            assert not ended.wait(0.01)
        told = [envelope for envelope in heard if envelope.topic != "/suite/begin"]
        assert [envelope.topic for envelope in told] == [
            "/images/create",
            "/containers/create",
            "/containers/delete",
            "/suite/end",
        ]
        assert told[-1].event == runtime.Any("example", b"x")
        assert {envelope.namespace for envelope in told} == {namespace}

    def test_a_malformed_topic_is_refused(self, view: contract.View) -> None:
        with pytest.raises(errors.InvalidArgument, match="topic"):
            view.events.publish("no topic", runtime.Any("example", b""))
