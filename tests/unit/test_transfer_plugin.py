"""The built-in services ``streaming`` and ``transfer``: names, configuration, what they make of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernel import config, plugins
from plugin_sdk import errors, platforms, plugin, transfer
from plugins_builtin.transfer import making, settings
from plugins_builtin.transfer.plugin import Auth, Config, Unpacks

ROOT = Path(__file__).parents[2]
FOUND = plugins.discover(["plugins_builtin.transfer.plugin"], group="none")
REGISTRATIONS = [registration for _, registration in FOUND.registrations]
TRANSFER = next(each for each in REGISTRATIONS if each.id == "transfer")
TABLE = "io.containerd.transfer.v1.local"
NAMES = {
    ("io.containerd.grpc.v1", "streaming"),
    ("io.containerd.grpc.v1", "transfer"),
    ("io.containerd.streaming.v1", "manager"),
    ("io.containerd.transfer.v1", "local"),
}


def context(registration: plugin.Registration) -> plugin.PluginContext:
    nothing: Any = None
    folder = Path("/nowhere")
    return plugin.PluginContext(Config() if registration.config else None, folder, folder, nothing, nothing, nothing)


def loaded(*disabled: str) -> plugins.Registry:
    registry = plugins.Registry(context)
    registry.load(FOUND, disabled)
    return registry


def test_both_are_shown_by_their_names_and_by_containerds() -> None:
    registry = loaded()
    infos = registry.infos()
    assert {(info.kind, info.id) for info in infos} == NAMES
    assert [info.error for info in infos if info.error] == []
    registry.close()


@pytest.mark.parametrize("name", ["io.containerd.grpc.v1.transfer", TABLE])
def test_transfer_is_disabled_by_either_name(name: str) -> None:
    registry = loaded(name)
    assert {info.id for info in registry.infos()} == {"streaming", "manager"}
    registry.close()


PASTED = f"""
version = 3

[plugins.'{TABLE}']
  max_concurrent_downloads = 3
  concurrent_layer_fetch_buffer = 8388608
  max_concurrent_uploaded_layers = 3
  check_platform_supported = false
  config_path = '/etc/containerd/certs.d'
  max_concurrent_unpacks = 1

  [[plugins.'{TABLE}'.unpack_config]]
    platform = 'linux/amd64'
    snapshotter = 'native'
    differ = ''
    config_type = ''
    layer_types = []
    optional = false

  [plugins.'{TABLE}'.auth.'registry.example.com']
    username = 'robot'
    password = 'hunter2'
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], config.Loaded]:
    def load(text: str) -> config.Loaded:
        (tmp_path / "plugins.toml").write_text(text)
        return config.load(tmp_path / "plugins.toml")

    return load


def test_containerds_table_is_read(load: Callable[[str], config.Loaded]) -> None:
    found = load(PASTED)
    found.check_plugins(REGISTRATIONS)
    assert found.warnings == []
    read = found.plugin_config(TRANSFER)
    assert isinstance(read, Config)
    assert read.unpack_config == (Unpacks("linux/amd64", "native"),)
    made = making.of_registries(read)
    assert (made.max_downloads, made.max_uploads, made.part_size) == (3, 3, 8 << 20)
    assert made.config_path == "/etc/containerd/certs.d"
    assert made.auth == {"registry.example.com": transfer.Credentials("robot", "hunter2")}


def test_a_dump_shows_no_secret_and_loads_again(load: Callable[[str], config.Loaded]) -> None:
    dumped = config.dump_text(load(PASTED), REGISTRATIONS)
    assert "hunter2" not in dumped
    assert "# password is set and not shown" in dumped
    read = load(dumped).plugin_config(TRANSFER)
    assert isinstance(read, Config)
    assert read.auth["registry.example.com"] == Auth("robot")
    assert read.unpack_config == (Unpacks("linux/amd64", "native"),)


def test_a_secret_of_a_wrong_type_is_not_told(load: Callable[[str], config.Loaded]) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"'password' .* must be a text") as caught:
        load(PASTED.replace("'hunter2'", "12345")).check_plugins(REGISTRATIONS)
    assert "12345" not in caught.value.message


@pytest.mark.parametrize("key", ["check_platform_supported = true", "unpack_config = [{ differ = 'walking' }]"])
def test_what_has_no_effect_is_a_warning(load: Callable[[str], config.Loaded], key: str) -> None:
    found = load(f"[plugins.'{TABLE}']\n{key}\n")
    found.check_plugins(REGISTRATIONS)
    assert len(found.warnings) == 1
    assert "has no effect here" in found.warnings[0]


@pytest.mark.parametrize("table", ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"])
def test_the_tables_of_a_cri_plugin_are_a_warning(load: Callable[[str], config.Loaded], table: str) -> None:
    found = load(f"[plugins.'{table}'.registry]\nconfig_path = '/etc/containerd/certs.d'\n")
    found.check_plugins(REGISTRATIONS)
    assert len(found.warnings) == 1
    assert f"there is no plugin '{table}'" in found.warnings[0]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (Config(max_concurrent_downloads=0), "max_concurrent_downloads"),
        (Config(concurrent_layer_fetch_buffer=-1), "concurrent_layer_fetch_buffer must not be negative"),
        (Config(concurrent_layer_fetch_buffer=(8 << 20) + 1), "concurrent_layer_fetch_buffer must be at most 8388608"),
        (Config(upload_chunk=-1), "upload_chunk must not be negative"),
        (Config(rate_window=0), "rate_window must be at least 1"),
        (Config(manifest_limit=0), "manifest_limit must be at least 1"),
        (Config(unpack_config=(Unpacks("lin ux/amd64", "native"),)), "lin ux"),
        (Config(auth={"a.example": Auth("robot", file="/nowhere/at/all")}), "a.example.*/nowhere/at/all"),
    ],
)
def test_what_cannot_be_used_is_refused_at_the_start(wrong: Config, named: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=named):
        settings.check(wrong)


def test_credentials_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter2\n")
    assert making.credentials("h", Auth("robot", file=str(path))) == transfer.Credentials("robot", "hunter2")
    assert making.credentials("h", Auth(file=str(path))) == transfer.Credentials(refresh="hunter2")
    assert making.credentials("h", Auth(identity_token="t")) == transfer.Credentials(refresh="t")
    assert making.credentials("h", Auth(header="Basic x")) == transfer.Credentials(header="Basic x")


def test_the_first_snapshotter_of_a_platform_counts() -> None:
    several = (Unpacks("linux/arm64/v8", "native"), Unpacks("linux/arm64", "other"), Unpacks("", "btrfs"), Unpacks())
    found = settings.snapshotters(Config(unpack_config=several))
    assert found == {platforms.parse("linux/arm64"): "native", platforms.host(): "btrfs"}


LOADED = """
import sys
from kernel import plugins
from plugin_sdk import plugin
from plugins_builtin.transfer.plugin import Config
registry = plugins.Registry(lambda of: plugin.PluginContext(Config(), "", "", None, None, None))
registry.load(plugins.discover(["plugins_builtin.transfer.plugin"], group="none"))
assert registry.has("io.containerd.grpc.v1", "transfer")
print(*(name for name in sys.modules if name.startswith(("urllib3", "plugin_sdk.distribution"))))
"""


def test_what_speaks_to_registries_is_not_loaded_at_the_start() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
