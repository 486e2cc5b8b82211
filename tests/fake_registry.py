"""A registry that is an object: images to pull, a log of what was asked, and faults at will."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import threading
from collections import Counter

from plugin_sdk import errors, oci
from plugin_sdk.conformance import layers
from plugin_sdk.distribution import references

CHUNK = 1 << 16


def never():
    """Nobody goes away."""


class Registry:
    """Blobs by digest; ``log`` has (what, digest, offset) of each request, ``served`` bytes by digest."""

    def __init__(self):
        self.blobs = {}
        self.tags = {}
        self.log = []
        self.served = Counter()
        self.uploaded = []
        self.repositories = Counter()
        self.before_chunk = lambda of, offset: None
        self.elsewhere = {}  # what another host has of a blob
        self.changed = threading.Condition()

    def add(self, media_type, data):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        of = oci.Descriptor(media_type, oci.digest_of(data), len(data))
        self.blobs[of.digest] = data
        return of

    def connect(self, reference="registry.example/app:1"):
        """What pull and push are given."""
        return lambda check: Repository(self, references.parse(reference), check)

    def note(self, what, digest, offset=0):
        with self.changed:
            self.log.append((what, digest, offset))
            self.changed.notify_all()

    def asked(self, what, digest):
        return [offset for name, asked, offset in self.log if (name, asked) == (what, digest)]

    def wait_for(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, 60)


class Repository:
    def __init__(self, registry, reference, check):
        self.registry = registry
        self.reference = reference
        self.check = check

    def resolve(self):
        try:
            return self.registry.tags[self.reference.object]
        except KeyError:
            raise errors.NotFound(f"{self.reference}: not found") from None

    def read(self, of, limit=0):
        self.registry.note("read", of.digest)
        return self._blob(of)

    def _blob(self, of):
        try:
            return self.registry.blobs[of.digest]
        except KeyError:
            raise errors.NotFound(f"{self.reference}: {of.digest}: not found") from None

    def fetch(self, of, offset=0):
        self.registry.note("fetch", of.digest, offset)
        data = self._blob(of)
        while offset < len(data):
            self.registry.before_chunk(of, offset)
            self.check()
            chunk = data[offset : offset + CHUNK]
            with self.registry.changed:
                self.registry.served[of.digest] += len(chunk)
                self.registry.changed.notify_all()
            yield chunk
            offset += len(chunk)

    def reject(self, of):
        self.registry.note("reject", of.digest)
        if of.digest not in self.registry.elsewhere:
            return False
        self.registry.blobs[of.digest] = self.registry.elsewhere.pop(of.digest)
        return True

    def rejected(self, of):
        return ["registry.example"]

    # --- push

    def has(self, of):
        return of.digest in self.registry.blobs

    def push_blob(self, of, open, sources=(), sent=lambda offset: None):
        if self.has(of):
            return "exists"
        if of.digest in self.registry.repositories:
            self.registry.note("mount", of.digest, tuple(sources))
            self.registry.blobs[of.digest] = b"of another repository"
            return "mounted"
        data = b""
        for chunk in open(0):
            self.registry.before_chunk(of, len(data))
            self.check()
            data += chunk
            sent(len(data))
        assert oci.digest_of(data) == of.digest
        self.registry.blobs[of.digest] = data
        self.registry.uploaded.append(of.digest)
        return "uploaded"

    def push_manifest(self, of, data, tag=""):
        assert oci.digest_of(data) == of.digest
        for child in oci.children(of.media_type, data):
            assert child.digest in self.registry.blobs or "foreign" in child.media_type, "children come first"
        self.registry.blobs[of.digest] = data
        self.registry.uploaded.append(of.digest)
        if tag:
            self.registry.tags[tag] = of


def told(of, platform=None):
    found = {"mediaType": of.media_type, "digest": of.digest, "size": of.size}
    if of.annotations:
        found["annotations"] = dict(of.annotations)
    if platform is not None:
        found["platform"] = {"os": platform.os, "architecture": platform.architecture}
    return found


class Image:
    """A manifest of gzip layers, each with a file of random bytes; ``root`` is the manifest."""

    def __init__(self, registry, *, count=2, size=300_000, seed=1, architecture="amd64", tag="", **more):
        generator = random.Random(seed)
        tars = [
            layers.tar(layers.member(f"layer-{number}", generator.randbytes(size)), layers.directory("d"))
            for number in range(count)
        ]
        self.diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in tars]
        self.chains = oci.chain_ids(self.diff_ids)
        self.layers = [registry.add(oci.LAYER_GZIP, gzip.compress(data, 1, mtime=0)) for data in tars]
        config = {
            "os": "linux",
            "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": more.pop("diff_ids", self.diff_ids)},
        }
        self.config = registry.add(oci.CONFIG, config)
        manifest = {"schemaVersion": 2, "config": told(self.config), "layers": list(map(told, self.layers)), **more}
        self.root = registry.add(oci.MANIFEST, manifest)
        if tag:
            registry.tags[tag] = self.root

    @property
    def blobs(self):
        return [self.config, *self.layers, self.root]
