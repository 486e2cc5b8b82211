import logging
import os

import pytest

from plugin_sdk import mounts, plugin
from plugins_builtin.content import local
from plugins_builtin.content import plugin as content_plugin
from plugins_builtin.snapshots import native, overlayfs
from plugins_builtin.snapshots import plugin as snapshots_plugin


def context(root):
    return plugin.PluginContext(None, root, root / "state", logging.getLogger("test"), None, None)


def create(name, root):
    registrations = {one.id: one for one in snapshots_plugin.register_snapshotters()}
    return registrations[name].create(context(root))


def test_the_content_store_is_registered(tmp_path):
    (registration,) = content_plugin.register_content_stores()
    assert registration.name == "io.containerd.content.v1.content"
    assert isinstance(registration.create(context(tmp_path)), local.Store)


def test_the_snapshotters_are_registered():
    names = [one.name for one in snapshots_plugin.register_snapshotters()]
    assert names == ["io.containerd.snapshotter.v1.overlayfs", "io.containerd.snapshotter.v1.native"]


@pytest.mark.root
@pytest.mark.parametrize(("name", "module"), [("overlayfs", overlayfs), ("native", native)])
def test_a_snapshotter_is_created_in_its_root(tmp_path, name, module):
    made = create(name, tmp_path / "root")
    assert isinstance(made, module.Snapshotter)
    assert (tmp_path / "root" / "snapshots").is_dir()
    made.close()


@pytest.mark.root
def test_overlayfs_is_skipped_where_it_cannot_work_and_native_is_not(tmp_path):
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    options = (f"lowerdir={tmp_path}/lower", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work")
    with mounts.temporary([mounts.Mount("overlay", "overlay", "", options)]) as merged:
        root = type(tmp_path)(merged)
        with pytest.raises(plugin.SkipPlugin, match=os.path.basename(merged)):
            create("overlayfs", root / "overlayfs")
        create("native", root / "native").close()
