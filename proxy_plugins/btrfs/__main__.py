"""The program ``corten-btrfs``, or ``python -m proxy_plugins.btrfs``: the snapshotter as a proxy plugin.

plugins.toml declares it so, the directory being on btrfs::

    [proxy_plugins.btrfs]
    type = "snapshot"
    address = "/run/corten-btrfs.sock"
    command = ["corten-btrfs", "--root", "/var/lib/corten-btrfs"]

containerd takes the same program, under a name that is not that of its own snapshotter.
"""

from __future__ import annotations

from plugin_sdk import release, serve
from proxy_plugins.btrfs.snapshotter import Snapshotter


def main() -> None:
    serve.main("corten-btrfs", snapshotter=lambda options: Snapshotter(options.root), version=release.VERSION)


if __name__ == "__main__":
    main()
