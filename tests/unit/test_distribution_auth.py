"""Authentication: challenges, tokens, whose credentials are used and where they go, and what is said without them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import errors, transfer
from plugin_sdk.distribution.http import auth
from plugin_sdk.distribution.http.auth import Wanted
from plugin_sdk.distribution.registry import Registries, Repository, Settings
from plugin_sdk.transfer import Challenge, Credentials
from tests import scripted_registry
from tests.scripted_registry import Handler, Tokens

SECRET = "s3cr3t-word"
ME = Credentials("me", SECRET)

Make = Callable[..., Repository]


@pytest.fixture
def served() -> Iterator[scripted_registry.Registry]:
    with scripted_registry.serve() as registry:
        registry.add_manifest(b'{"schemaVersion":2}')
        yield registry


@pytest.fixture
def make(served: scripted_registry.Registry, tmp_path: Path) -> Iterator[Make]:
    """``make(auth=…, registries=…, **registry)``: the image ``a/b:1`` there, with settings of its own."""
    made: list[Registries] = []

    def repository(found: Credentials | None = None, *, again: bool = False, **given: Any) -> Repository:
        if not again:
            settings = {"auth": {served.address: found}} if found else {}
            docker = str(tmp_path / "none.json")
            made.append(Registries(Settings(retries=1, backoff=0.001, docker_config=docker, **settings)))
        return made[-1].repository(transfer.Registry(f"{served.address}/a/b:1", **given))

    yield repository
    for registries in made:
        registries.close()


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], []),
        (["Basic"], [Wanted("basic")]),
        (['Basic realm="a, b"'], [Wanted("basic", "a, b")]),
        (
            ['Bearer realm="https://t/x?y=z",service="s",scope="repository:a/b:pull,push",error="e"'],
            [Wanted("bearer", "https://t/x?y=z", "s", "repository:a/b:pull,push", "e")],
        ),
        (["bearer  realm=t , service = s"], [Wanted("bearer", "t", "s")]),
        (
            ['Negotiate, Basic realm="r", Bearer realm="t"'],
            [Wanted("negotiate"), Wanted("basic", "r"), Wanted("bearer", "t")],
        ),
        (['Basic realm="r"', 'Bearer realm="a\\"b"'], [Wanted("basic", "r"), Wanted("bearer", 'a"b')]),
        (['Basic realm="never ends'], [Wanted("basic")]),
        (["\x00\x01"], []),
    ],
)
def test_challenges_are_read(headers: list[str], found: list[Wanted]) -> None:
    assert auth.challenges(headers) == found


def test_a_long_header_of_nonsense_is_read_in_time() -> None:
    auth.challenges(['Bearer a="' + "\\" * 50_000, "=" * 50_000, "a " * 20_000, " " * 50_000])


def test_basic_credentials_of_the_settings_are_sent_once_they_are_wanted(
    served: scripted_registry.Registry, make: Make
) -> None:
    served.faults.append(scripted_registry.basic("me", SECRET))
    make(ME).resolve()
    assert ["authorization" in seen.headers for seen in served.seen] == [False, True]
    make(again=True).resolve()
    assert len(served.seen) == 3, "the second one knows what is wanted"


def test_a_token_is_fetched_for_the_scope_and_kept(served: scripted_registry.Registry, make: Make) -> None:
    tokens = Tokens({"me": SECRET})
    served.faults.append(tokens)
    repository = make(ME)
    target = repository.resolve()
    repository.read(target)
    make(again=True).resolve()
    ((user, asked),) = tokens.told
    assert (user, asked["scope"], asked["service"]) == ("me", ["repository:a/b:pull"], ["test"])


def test_a_token_for_anybody_needs_no_credentials(served: scripted_registry.Registry, make: Make) -> None:
    served.faults.append(Tokens(anonymous=True))
    make().resolve()


def test_pushing_asks_for_more_than_pulling(served: scripted_registry.Registry, make: Make) -> None:
    tokens = Tokens({"me": SECRET})
    served.faults.append(tokens)
    repository = make(ME)
    repository.resolve()
    of = scripted_registry.Registry().add_blob(b"new")
    assert repository.push_blob(of, lambda offset: iter([b"new"[offset:]]), ["c/d"]) == "uploaded"
    assert tokens.told[1][1]["scope"] == ["repository:a/b:pull,push", "repository:c/d:pull"]


def test_a_refresh_token_is_exchanged(served: scripted_registry.Registry, make: Make) -> None:
    tokens = Tokens(refreshes={"me": SECRET})
    served.faults.append(tokens)
    make(Credentials(refresh=SECRET)).resolve()
    ((user, asked),) = tokens.told
    assert (user, asked["grant_type"]) == ("me", ["refresh_token"])
    assert served.requests("POST", "/token")


def test_a_token_server_that_knows_no_get_is_asked_by_post(served: scripted_registry.Registry, make: Make) -> None:
    tokens = Tokens({"me": SECRET}, takes_get=False)
    served.faults.append(tokens)
    make(ME).resolve()
    assert tokens.told[-1][1]["grant_type"] == ["password"]


def test_a_token_that_is_not_taken_any_more_is_replaced(served: scripted_registry.Registry, make: Make) -> None:
    tokens = Tokens({"me": SECRET}, uses=1)
    served.faults.append(tokens)
    repository = make(ME)
    for _ in range(3):
        repository.resolve()
    assert len(tokens.told) == 3


def test_an_expired_token_is_not_sent(served: scripted_registry.Registry, make: Make) -> None:
    tokens = Tokens({"me": SECRET}, expires_in=300)
    served.faults.append(tokens)
    repository = make(ME)
    repository.resolve()
    for entry in repository._registries._authority._tokens.values():
        entry.until = 0.0
    repository.resolve()
    assert len(tokens.told) == 2
    assert sum(seen.headers.get("authorization", "").startswith("Bearer") for seen in served.seen) == 2


def test_many_threads_fetch_one_token(served: scripted_registry.Registry, make: Make) -> None:
    tokens = Tokens({"me": SECRET}, delay=0.05)
    served.faults.append(tokens)
    repository = make(ME)
    with ThreadPoolExecutor(8) as threads:
        assert len({found.digest for found in threads.map(lambda _: repository.resolve(), range(16))}) == 1
    assert len(tokens.told) == 1


def test_two_users_do_not_share_a_token(served: scripted_registry.Registry, make: Make) -> None:
    tokens = Tokens({"me": SECRET, "you": "x"})
    served.faults.append(tokens)
    make(ME).resolve()
    make(again=True, ask=lambda challenge: Credentials("you", "x")).resolve()
    assert [user for user, _ in tokens.told] == ["me", "you"]


def test_the_caller_is_asked_first_and_once(served: scripted_registry.Registry, make: Make) -> None:
    served.faults.append(Tokens({"me": SECRET, "you": "x"}, uses=1))
    asked: list[Challenge] = []

    def ask(challenge: Challenge) -> Credentials:
        asked.append(challenge)
        return ME

    repository = make(Credentials("you", "x"), ask=ask)
    repository.resolve()
    repository.watched(lambda: None).resolve()
    (challenge,) = asked
    assert (challenge.host, challenge.reference) == (served.address, f"{served.address}/a/b:1")
    assert challenge.headers[0].startswith("Bearer realm=")


def test_a_caller_with_none_leaves_it_to_the_settings(served: scripted_registry.Registry, make: Make) -> None:
    served.faults.append(scripted_registry.basic("me", SECRET))
    make(ME, ask=lambda challenge: None).resolve()


def test_a_whole_header_is_sent_as_it_is(served: scripted_registry.Registry, make: Make) -> None:
    served.faults.append(scripted_registry.basic("me", SECRET))
    make(ask=lambda challenge: Credentials(header=auth.basic(ME))).resolve()


@pytest.mark.parametrize("name", ["Authorization", "authorization"])
def test_the_callers_header_is_sent_at_once(served: scripted_registry.Registry, make: Make, name: str) -> None:
    served.faults.append(scripted_registry.basic("me", SECRET))
    make(headers={name: auth.basic(ME)}).resolve()
    assert len(served.seen) == 1


def test_name_and_secret_of_the_callers_header_buy_a_token(served: scripted_registry.Registry, make: Make) -> None:
    served.faults.append(Tokens({"me": SECRET}))
    make(headers={"Authorization": auth.basic(ME)}).resolve()


def test_docker_s_file_is_used(served: scripted_registry.Registry, tmp_path: Path) -> None:
    served.faults.append(scripted_registry.basic("me", SECRET))
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {served.address: {"username": "me", "password": SECRET}}}))
    with Registries(Settings(docker_config=str(file))) as registries:
        registries.repository(transfer.Registry(f"{served.address}/a/b:1")).resolve()


def test_a_broken_helper_is_an_error_that_names_the_image(served: scripted_registry.Registry, tmp_path: Path) -> None:
    served.faults.append(scripted_registry.basic("me", SECRET))
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"credsStore": "not-there"}))
    with Registries(Settings(docker_config=str(file))) as registries:
        repository = registries.repository(transfer.Registry(f"{served.address}/a/b:1"))
        with pytest.raises(errors.FailedPrecondition, match=rf"{served.address}/a/b:1: .*docker-credential-not-there"):
            repository.resolve()


@pytest.mark.parametrize(
    "check", [scripted_registry.basic("me", SECRET), Tokens({"me": SECRET})], ids=["basic", "bearer"]
)
def test_missing_and_wrong_credentials_are_told_apart(
    served: scripted_registry.Registry, make: Make, check: scripted_registry.Fault
) -> None:
    served.faults.append(check)
    with pytest.raises(errors.Unauthenticated, match="it wants credentials, and there are none") as caught:
        make().resolve()
    assert f"cannot resolve image {served.address}/a/b:1: {served.address}: " in caught.value.message
    with pytest.raises(errors.Unauthenticated, match="refuses the credentials"):
        make(Credentials("me", "wrong")).resolve()


def test_a_token_for_anybody_that_does_not_suffice_means_missing_credentials(
    served: scripted_registry.Registry, make: Make
) -> None:
    served.faults.append(Tokens(anonymous=True))
    with pytest.raises(errors.Unauthenticated, match="it wants credentials, and there are none"):
        make().push_manifest(served.add_manifest(b"{}"), b"{}", "1")


def test_credentials_that_do_not_suffice_are_told_apart_from_wrong_ones(
    served: scripted_registry.Registry, make: Make
) -> None:
    served.faults.append(Reserved({"me": SECRET}))
    with pytest.raises(errors.PermissionDenied, match="the credentials do not allow it"):
        make(ME).resolve()


class Reserved(Tokens):
    def needed(self, handler: Handler) -> tuple[str, str]:
        return "another/repository", "pull"


def test_a_403_is_no_matter_of_credentials(served: scripted_registry.Registry, make: Make) -> None:
    served.faults.append(lambda handler: handler.refuse(403, "DENIED"))
    with pytest.raises(errors.PermissionDenied, match=r"it answers 403$"):
        make(ME).resolve()


@pytest.mark.parametrize(
    ("challenge", "why", "kind"),
    [
        ("", "does not say how to authenticate", errors.Unauthenticated),
        ("Negotiate", "does not say how to authenticate", errors.Unauthenticated),
        ('Bearer realm="http://[x"', "token server's URL is malformed", errors.FailedPrecondition),
        ('Bearer realm="file:///etc/passwd"', "token server's URL is malformed", errors.FailedPrecondition),
        ("Bearer", "token server's URL is malformed", errors.FailedPrecondition),
    ],
)
def test_a_challenge_that_cannot_be_answered(
    served: scripted_registry.Registry, make: Make, challenge: str, why: str, kind: type[errors.Error]
) -> None:
    headers = {"WWW_Authenticate": challenge} if challenge else {}
    served.faults.append(lambda handler: handler.refuse(401, "UNAUTHORIZED", **headers))
    with pytest.raises(kind, match=why):
        make(ME).resolve()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<html>", b'{"token": 1, "expires_in": "soon"}'])
def test_a_token_server_that_answers_nonsense(served: scripted_registry.Registry, make: Make, body: bytes) -> None:
    served.faults.append(scripted_registry.times(9, "/token", lambda handler: handler.answer(200, body)))
    served.faults.append(Tokens())
    with pytest.raises(errors.Unavailable, match="its token server does not answer a token"):
        make().resolve()


def test_a_token_server_that_fails_once_is_asked_again(served: scripted_registry.Registry, make: Make) -> None:
    served.faults.append(scripted_registry.times(1, "/token", lambda handler: handler.refuse(503, "UNAVAILABLE")))
    served.faults.append(Tokens(anonymous=True))
    make().resolve()


def test_the_credentials_of_the_caller_do_not_go_to_a_mirror(
    served: scripted_registry.Registry, tmp_path: Path
) -> None:
    folder = tmp_path / "example.com"
    folder.mkdir()
    (folder / "hosts.toml").write_text(f'[host."{served.url}"]')
    given = {"Authorization": auth.basic(ME), "X-Team": "a"}
    with Registries(Settings(config_path=str(tmp_path))) as registries:
        registries.repository(transfer.Registry("example.com/a/b:1", given)).resolve()
    (seen,) = served.seen
    assert "authorization" not in seen.headers
    assert seen.headers["x-team"] == "a"
    assert seen.query == {"ns": ["example.com"]}


def test_the_headers_of_the_table_and_of_the_caller_are_sent(
    served: scripted_registry.Registry, tmp_path: Path
) -> None:
    (tmp_path / "_default").mkdir()
    header = '{ x-many = ["1", "2"], x-one = "table", User-Agent = "mine" }'
    (tmp_path / "_default" / "hosts.toml").write_text(f'server = "{served.url}"\nheader = {header}')
    with Registries() as registries:
        registries.repository(
            transfer.Registry(f"{served.address}/a/b:1", {"X-ONE": "caller"}, str(tmp_path))
        ).resolve()
    headers = served.seen[0].headers
    assert (headers["x-many"], headers["x-one"], headers["user-agent"]) == ("1, 2", "caller", "mine")


def test_no_secret_is_in_a_message_or_a_log(
    served: scripted_registry.Registry, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers: list[Callable[[Handler], bool]] = [
        lambda handler: handler.refuse(401, handler.headers.get("Authorization", "NONE")),
        lambda handler: handler.answer(500, handler.headers.get("Authorization", "").encode()),
        lambda handler: handler.cut(),
        Tokens({"me": "other"}),
    ]
    for answer in answers:
        served.faults[:] = [answer]
        for one in (ME, Credentials(refresh=SECRET), Credentials(header=f"Bearer {SECRET}")):
            with pytest.raises(errors.Error) as caught:
                make(one, headers={"X-Token": SECRET}).resolve()
            told: BaseException | None = caught.value
            while told is not None:
                assert SECRET not in repr(told)
                told = told.__cause__
    assert SECRET not in caplog.text


@pytest.mark.parametrize("value", ["a\r\nB: c", "s3cr3t-word \u20ac", "a\nb"])
def test_a_header_that_is_none_is_refused_without_repeating_it(
    served: scripted_registry.Registry, make: Make, value: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match="a header for it is malformed") as caught:
        make(headers={"X-Token": value}).resolve()
    assert value not in caught.value.message


def test_a_thread_that_waits_for_anothers_token_can_be_called_away(
    served: scripted_registry.Registry, make: Make
) -> None:
    entered, leave = threading.Event(), threading.Event()
    served.faults.append(Tokens(anonymous=True))

    def slow(handler: Handler) -> bool:
        if handler.where == "/token":
            entered.set()
            leave.wait(60)
        return False

    served.faults.insert(0, slow)
    repository = make()

    def gone() -> None:
        if entered.is_set():
            raise errors.Canceled("the caller has gone")

    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(repository.resolve)
        assert entered.wait(60)
        try:
            with pytest.raises(errors.Canceled):
                repository.watched(gone).resolve()
        finally:
            leave.set()
        assert other.result(60).digest
