"""Folders of hosts.toml: what containerd reads from them, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugin_sdk import errors
from plugin_sdk.distribution.http import hosts
from plugin_sdk.distribution.http.hosts import CAPABILITIES, Folders, Host, Tls


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "hosts.toml").write_text(text)


def read(folder: Path, registry: str = "example.com", scheme: str = "") -> tuple[Host, ...]:
    return Folders().hosts(registry, [str(folder)], scheme)


@pytest.mark.parametrize(
    ("registry", "schemes", "address"),
    [
        ("docker.io", ("https",), "registry-1.docker.io"),
        ("example.com", ("https",), "example.com"),
        ("example.com:5000", ("https",), "example.com:5000"),
        ("localhost", ("https",), "localhost"),
        ("localhost:443", ("https",), "localhost:443"),
        ("localhost:5000", ("http", "https"), "localhost:5000"),
        ("127.0.0.2:5000", ("http", "https"), "127.0.0.2:5000"),
        ("[::1]:5000", ("http", "https"), "[::1]:5000"),
        ("10.0.0.1:5000", ("https",), "10.0.0.1:5000"),
    ],
)
def test_a_registry_that_no_file_describes(
    tmp_path: Path, registry: str, schemes: tuple[str, ...], address: str
) -> None:
    assert read(tmp_path, registry) == (Host(address, schemes),)


def test_the_caller_may_name_the_scheme_of_a_registry_that_no_file_describes(tmp_path: Path) -> None:
    assert read(tmp_path, "example.com:5000", "http") == (Host("example.com:5000", ("http",)),)


def test_hosts_are_tried_in_the_order_of_the_file_and_the_server_last(tmp_path: Path) -> None:
    write(
        tmp_path,
        "example.com",
        """
        server = "https://example.com"
        [host."https://z.example"]
        [host."http://a.example:5000/some/path"]
          capabilities = ["pull"]
        [host."m.example"]
        """,
    )
    z, a, m, server = read(tmp_path)
    assert [z.address, a.address, m.address, server.address] == [
        "z.example",
        "a.example:5000",
        "m.example",
        "example.com",
    ]
    assert (a.schemes, a.path, a.capabilities, a.origin) == (("http",), "/some/path/v2", {"pull"}, False)
    assert (m.schemes, m.path, m.capabilities) == (("https",), "/v2", CAPABILITIES)
    assert server.origin


def test_every_key_of_a_host_is_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        "example.com",
        """
        [host."https://m.example/cache"]
          capabilities = ["PULL", "resolve"]
          ca = ["ca.pem", "/etc/other.pem"]
          client = [["c.cert", "c.key"], ["both.pem", ""]]
          skip_verify = true
          override_path = true
          dial_timeout = "1m1.5s"
          [host."https://m.example/cache".header]
            x-one = "1"
            x-many = ["2", "3"]
        """,
    )
    folder = tmp_path / "example.com"
    expected = Host(
        "m.example",
        ("https",),
        "/cache",
        frozenset({"pull", "resolve"}),
        Tls(
            (str(folder / "ca.pem"), "/etc/other.pem"),
            ((str(folder / "c.cert"), str(folder / "c.key")), (str(folder / "both.pem"), "")),
            skip_verify=True,
        ),
        (("x-one", "1"), ("x-many", "2"), ("x-many", "3")),
        61.5,
        origin=False,
    )
    assert read(tmp_path)[0] == expected


@pytest.mark.parametrize(
    ("url", "override", "path"),
    [
        ("https://m", "false", "/v2"),
        ("https://m/", "false", "/v2"),
        ("https://m/v2", "false", "/v2"),
        ("https://m/v2/", "false", "/v2"),
        ("https://m/v2/proxy", "false", "/v2/proxy/v2"),
        ("https://m/v2/proxy", "true", "/v2/proxy"),
        ("https://m//a/../b", "false", "/b/v2"),
        ("https://m", "true", ""),
    ],
)
def test_the_path_ends_with_v2_unless_it_is_whole(tmp_path: Path, url: str, override: str, path: str) -> None:
    write(tmp_path, "example.com", f'[host."{url}"]\noverride_path = {override}')
    assert read(tmp_path)[0].path == path


@pytest.mark.parametrize(
    ("key", "tls"),
    [
        ('ca = "a.pem"', Tls(("a.pem",))),
        ('client = "c.pem"', Tls((), (("c.pem", ""),))),
        ('client = ["c.pem", "d.pem"]', Tls((), (("c.pem", ""), ("d.pem", "")))),
        ('client = [["c.pem"], ["d.pem", "d.key"]]', Tls((), (("c.pem", ""), ("d.pem", "d.key")))),
    ],
)
def test_keys_at_the_top_are_the_servers(tmp_path: Path, key: str, tls: Tls) -> None:
    write(tmp_path, "example.com", key)
    folder = tmp_path / "example.com"

    def placed(name: str) -> str:
        return str(folder / name) if name else ""

    pairs = tuple((placed(certificate), placed(private)) for certificate, private in tls.client)
    assert read(tmp_path) == (Host("example.com", tls=Tls(tuple(map(placed, tls.ca)), pairs)),)


def test_a_table_of_the_registry_itself_stands_for_it(tmp_path: Path) -> None:
    write(tmp_path, "example.com", '[host."https://example.com"]\nskip_verify = true')
    assert [host.tls.skip_verify for host in read(tmp_path)] == [True]
    write(tmp_path, "example.com", '[host."https://example.com"]\ncapabilities = ["pull"]')
    assert len(read(tmp_path)) == 2


def test_docker_hub_has_its_own_host_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    write(tmp_path, "docker.io", '[host."https://m.example"]')
    assert [host.address for host in read(tmp_path, "docker.io")] == ["m.example", "registry-1.docker.io"]
    write(tmp_path, "docker.io", 'server = "https://registry-1.docker.io"')
    assert [host.origin for host in read(tmp_path, "docker.io")] == [True]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["example.com_5000_", "example.com:5000", "_default"], "example.com_5000_"),
        (["example.com:5000", "_default"], "example.com:5000"),
        (["_default"], "_default"),
        (["example.com"], ""),
    ],
)
def test_the_first_folder_that_exists_is_read(tmp_path: Path, names: list[str], found: str) -> None:
    for name in names:
        write(tmp_path, name, f'server = "https://{name.strip("_").partition(":")[0].partition("_")[0]}.from"')
    address = read(tmp_path, "example.com:5000")[0].address
    assert address == (f"{found.strip('_').partition(':')[0].partition('_')[0]}.from" if found else "example.com:5000")


def test_of_several_folders_the_first_that_knows_the_registry_counts(tmp_path: Path) -> None:
    write(tmp_path / "second", "example.com", 'server = "https://second"')
    write(tmp_path / "third", "example.com", 'server = "https://third"')
    folders = [str(tmp_path / name) for name in ("first", "second", "third")]
    assert Folders().hosts("example.com", folders)[0].address == "second"


def test_certificates_without_a_file_are_taken_as_docker_has_them(tmp_path: Path) -> None:
    folder = tmp_path / "example.com"
    folder.mkdir()
    for name in ("a.crt", "b.crt", "c.cert", "c.key", "readme"):
        (folder / name).write_text("")
    tls = Tls((str(folder / "a.crt"), str(folder / "b.crt")), ((str(folder / "c.cert"), str(folder / "c.key")),))
    assert read(tmp_path) == (Host("example.com", tls=tls),)


def test_an_empty_folder_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "example.com").mkdir()
    assert read(tmp_path) == (Host("example.com"),)


def test_plain_http_with_tls_files_is_tried_with_tls_first(tmp_path: Path) -> None:
    write(tmp_path, "example.com", 'server = "http://example.com:5000"\nskip_verify = true')
    assert read(tmp_path)[0].schemes == ("https", "http")
    write(tmp_path, "example.com", 'server = "http://example.com"\nskip_verify = true')
    assert read(tmp_path)[0].schemes == ("http",)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    folders = Folders()
    write(tmp_path, "_default", 'server = "https://first"')
    assert folders.hosts("example.com", [str(tmp_path)])[0].address == "first"
    assert folders.hosts("example.com", [str(tmp_path)]) is folders.hosts("example.com", [str(tmp_path)])
    write(tmp_path, "_default", 'server = "https://second.one"')
    assert folders.hosts("example.com", [str(tmp_path)])[0].address == "second.one"
    write(tmp_path, "example.com", 'server = "https://nearer"')
    assert folders.hosts("example.com", [str(tmp_path)])[0].address == "nearer"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a = 1\nserver = ", r"hosts\.toml cannot be used: Invalid value"),
        ("server = 1", "server: must be a string"),
        ('server = "ftp://a"', "server: .* is not the URL of a host"),
        ('server = "https://"', "server: .* is not the URL of a host"),
        ('server = "https://[x"', "server: it is not the URL of a host"),
        ('server = "https://a:99999"', "server: .* is not the URL of a host"),
        ("host = 1", "host: must be tables"),
        ("[host]\na = 1", 'host."a": must be a table'),
        ('[host."https://m"]\ncapabilities = ["fly"]', 'host."https://m".capabilities: .fly. is none of'),
        ('[host."https://m"]\nca = 1', 'host."https://m".ca: must be a string or a list'),
        ("client = [1]", "client: must be a path"),
        ('client = [["a", "b", "c"]]', "client: must be a path"),
        ("client = 1", "client: must be a path"),
        ('skip_verify = "yes"', "skip_verify: must be true or false"),
        ('dial_timeout = "5"', "dial_timeout: .* is not a span of time"),
        ("header = 1", "header: must be a table"),
        ("[header]\na = 1", "header.a: must be a string or a list"),
        ('[header]\na = "b\\r\\nc: d"', "header.a: is not a header"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, text: str, why: str) -> None:
    write(tmp_path, "example.com", text)
    with pytest.raises(errors.FailedPrecondition, match=why) as caught:
        read(tmp_path)
    assert str(tmp_path / "example.com" / "hosts.toml") in caught.value.message
    assert "\n" not in caught.value.message


def test_a_url_with_a_password_is_refused_without_repeating_it(tmp_path: Path) -> None:
    write(tmp_path, "example.com", 'server = "https://me:hidden@example.com"')
    with pytest.raises(errors.FailedPrecondition) as caught:
        read(tmp_path)
    assert "hidden" not in caught.value.message


def test_a_client_certificate_without_its_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "example.com").mkdir()
    (tmp_path / "example.com" / "c.cert").write_text("")
    with pytest.raises(errors.FailedPrecondition, match=r"c\.cert cannot be used: its key c\.key is missing"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("address", "local"), [("localhost:1", True), ("127.9.9.9", True), ("[::1]", True), ("a", False)]
)
def test_which_hosts_are_this_machine(address: str, local: bool) -> None:
    assert hosts.is_local(address) is local
