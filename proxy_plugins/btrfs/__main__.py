"""The program ``python -m proxy_plugins.btrfs --address SOCKET --root DIR``: the snapshotter as a proxy plugin.

plugins.toml declares it so, the directory being on btrfs::

    [proxy_plugins.btrfs]
    type = "snapshot"
    address = "/run/corten-btrfs.sock"
    command = ["python3", "-m", "proxy_plugins.btrfs", "--root", "/var/lib/corten-btrfs"]

containerd takes the same program, under a name that is not that of its own snapshotter.
"""

from __future__ import annotations

from plugin_sdk import release, serve
from proxy_plugins.btrfs.snapshotter import Snapshotter

if __name__ == "__main__":
    serve.main("corten-btrfs", snapshotter=lambda options: Snapshotter(options.root), version=release.VERSION)
