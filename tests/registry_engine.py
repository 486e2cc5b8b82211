"""A Docker engine for the session, in which Debian's docker-registry runs: no network and no image from outside.

``dockerd`` has directories, a mount namespace, a containerd and cgroups of its own and makes no interface, so it
disturbs no other engine of the machine. testcontainers drives it, with the network of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import daemons
from scripts import images

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

IMAGE = "corten.test/registry:1"
PROGRAM = "/usr/bin/docker-registry"
CGROUPS = Path("/sys/fs/cgroup")
OWN = ("/run", "/etc/docker")  # what it would leave there, wherever its own directories are, goes with its mounts


@dataclass(slots=True)
class Engine:
    """A running one. ``containers`` are those to be removed at its end."""

    daemon: daemons.Daemon
    cgroup: str
    containers: list[DockerContainer] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"unix://{self.daemon.address}"

    def run(self, arguments: Sequence[str], folders: Mapping[Path, str]) -> DockerContainer:
        """Starts ``docker-registry ARGUMENTS``; ``folders`` are seen in it at the paths named."""
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(IMAGE, docker_client_kw={"environment": {"DOCKER_HOST": self.host}})
        container = container.with_command([PROGRAM, *arguments]).with_kwargs(network_mode="host")
        for folder, target in folders.items():
            container.with_volume_mapping(str(folder), target, "rw")
        self.containers.append(container.start())
        return container

    def stop(self) -> None:
        try:
            with contextlib.ExitStack() as stack:  # each is stopped, also when another one fails
                for container in self.containers:
                    stack.callback(container.get_docker_client().client.close)
                    stack.callback(container.stop)
        finally:
            self.daemon.kill()
            self.daemon.stop()
            for folder in [*CGROUPS.rglob(self.cgroup)]:
                folder.rmdir()


@contextlib.contextmanager
def started(directory: Path, cgroup: str) -> Iterator[Engine]:
    """An engine with the image in it. ``cgroup`` is the name of the parent of its containers' cgroups.

    Raises RuntimeError, with the end of dockerd's log, when it does not start.
    """
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
    engine = Engine(_daemon(directory, cgroup), cgroup)
    try:
        engine.daemon.start(60)
        _add_image(engine.host)
        yield engine
    finally:
        engine.stop()


def _daemon(directory: Path, cgroup: str) -> daemons.Daemon:
    directory.mkdir()
    (directory / "daemon.json").write_text(json.dumps({"exec-opts": ["native.cgroupdriver=cgroupfs"]}))
    address = str(directory / "d.sock")
    options = {
        "config-file": directory / "daemon.json",
        "data-root": directory / "root",
        "exec-root": directory / "state",
        "pidfile": directory / "pid",
        "host": f"unix://{address}",
        "cgroup-parent": cgroup,
        "bridge": "none",
        **dict.fromkeys(("iptables", "ip6tables", "ip-forward", "userland-proxy"), "false"),
    }
    dockerd = ["dockerd", *(f"--{name}={value}" for name, value in options.items())]
    hides = " && ".join(f"mount -t tmpfs none {folder}" for folder in OWN)
    command = ["unshare", "--mount", "sh", "-c", f'{hides} && exec "$@"', "sh", *dockerd]
    environment = {**os.environ, daemons.MARK: uuid.uuid4().hex}
    return daemons.Daemon("dockerd", directory, address, command, environment)


def _add_image(host: str) -> None:
    """One layer: the program of Debian's package, and what it is linked with."""
    import docker

    linked = subprocess.run(["ldd", PROGRAM], capture_output=True, text=True, check=True).stdout
    paths = [PROGRAM, *re.findall(r"/\S+", linked)]
    entries = [images.Entry(path.lstrip("/"), Path(path).read_bytes(), mode=0o755) for path in paths]
    layer = images.tar([*entries, images.directory("tmp", 0o1777)])
    with contextlib.closing(docker.DockerClient(base_url=host)) as client:
        client.api.import_image_from_data(layer, *IMAGE.split(":"))


def wait_for(container: DockerContainer, pattern: str, timeout: float = 60) -> re.Match[str]:
    """The first match in the standard error of a container. Raises RuntimeError with all of it."""
    deadline = time.monotonic() + timeout
    while True:
        said = container.get_wrapped_container().logs(stdout=False, stderr=True).decode()
        if found := re.search(pattern, said):
            return found
        container.get_wrapped_container().reload()
        if container.get_wrapped_container().status == "exited" or time.monotonic() > deadline:
            raise RuntimeError(f"the registry does not answer: {said}")
        time.sleep(0.02)
