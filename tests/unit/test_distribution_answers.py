"""What registries answer besides: redirects, referrers, pauses, codes."""

from __future__ import annotations

import email.utils
import json
import time

import pytest

from plugin_sdk import errors, oci, transfer
from plugin_sdk.distribution.http import exchanges, retries, statuses
from plugin_sdk.distribution.http.connections import Failed
from plugin_sdk.oci import Descriptor
from tests import scripted_registry
from tests.repositories import DATA, OTHER, Make, fetched
from tests.scripted_registry import Handler, Registry


def test_a_blob_may_lie_elsewhere_and_credentials_do_not_go_there(
    served: Registry, mirror: Registry, make: Make
) -> None:
    of = mirror.add_blob(DATA)
    served.faults.append(scripted_registry.basic("me", "word"))
    elsewhere = f"{mirror.url}/v2/a/b/blobs/{of.digest}?signature=x"
    served.faults.append(lambda handler: handler.answer(307, Location=elsewhere))
    auth = {served.address: transfer.Credentials("me", "word")}
    assert fetched(make(served, auth=auth), of, 5) == DATA[5:]
    (seen,) = mirror.seen
    assert "authorization" not in seen.headers
    assert (seen.span, seen.query) == ("bytes=5-", {"signature": ["x"]})
    assert served.seen[-1].headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/x", "file:///etc/passwd", "unix:///run/x"])
def test_a_redirect_to_another_scheme_is_refused(served: Registry, make: Make, where: str) -> None:
    of = served.add_blob(DATA)
    served.faults.append(lambda handler: handler.answer(302, Location=where))
    with pytest.raises(
        errors.FailedPrecondition, match=rf"layer {of.digest} .*it redirects to another scheme"
    ) as caught:
        fetched(make(served), of)
    assert len(served.seen) == 1
    assert "passwd" not in caught.value.message


def test_a_redirect_to_what_is_no_url_is_refused(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    served.faults.append(lambda handler: handler.answer(302, Location="https://[x/"))
    with pytest.raises(errors.FailedPrecondition, match=rf"layer {of.digest} .*it names a malformed URL") as caught:
        fetched(make(served), of)
    assert "example.com/a/b:1" in caught.value.message
    assert served.address in caught.value.message


def test_redirects_in_a_circle_end(served: Registry, make: Make) -> None:
    served.faults.append(lambda handler: handler.answer(301, Location=handler.path))
    with pytest.raises(errors.FailedPrecondition, match="it redirects more than 5 times"):
        fetched(make(served), served.add_blob(DATA))


# -- referrers


@pytest.mark.parametrize("has_api", [True, False])
def test_what_refers_to_a_manifest_is_listed(served: Registry, make: Make, has_api: bool) -> None:
    served.has_referrers = has_api
    repository = make(served)
    subject = served.add_manifest(b"{}")
    assert repository.referrers(subject.digest) == []
    made = []
    for kind in ("a/signature", "a/sbom"):
        document = {
            "schemaVersion": 2,
            "artifactType": kind,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json"},
            "subject": {"digest": subject.digest},
        }
        data = json.dumps(document).encode()
        made.append(Descriptor(oci.MANIFEST, oci.digest_of(data), len(data)))
        repository.push_manifest(made[-1], data)
    assert sorted(repository.referrers(subject.digest), key=str) == sorted(made, key=str)
    assert repository.referrers(subject.digest, "a/sbom") == made[1:]
    tag = subject.digest.replace(":", "-")
    assert (("a/b", tag) in served.manifests) is not has_api


def test_pages_of_referrers_are_put_together(served: Registry, make: Make) -> None:
    def page(handler: Handler) -> bool:
        number = int(handler.query.get("n", ["0"])[0])
        entry = {"mediaType": oci.MANIFEST, "digest": "sha256:" + str(number) * 64, "size": 1}
        index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [entry]}
        more = {"Link": f'</v2/a/b/referrers/x?n={number + 1}>; rel="next"'} if number < 2 else {}
        return handler.answer(200, json.dumps(index).encode(), Content_Type=oci.INDEX, **more)

    served.faults.append(page)
    assert [of.digest[-1] for of in make(served).referrers(OTHER)] == ["0", "1", "2"]


def test_a_next_page_that_is_no_url_is_refused(served: Registry, make: Make) -> None:
    document = json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": []}).encode()
    more = {"Content_Type": oci.INDEX, "Link": '<https://[x/>; rel="next"'}
    served.faults.append(lambda handler: handler.answer(200, document, **more))
    with pytest.raises(errors.FailedPrecondition, match=r"example\.com/a/b:1.*it names a malformed URL") as caught:
        make(served).referrers(OTHER)
    assert served.address in caught.value.message


def test_a_malformed_list_of_referrers_is_refused(served: Registry, make: Make) -> None:
    served.faults.append(lambda handler: handler.answer(200, b'{"manifests":[1]}', Content_Type=oci.INDEX))
    with pytest.raises(errors.InvalidArgument, match="list of referrers is malformed"):
        make(served).referrers(OTHER)


# -- pauses


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("soon", None),
        ("-1", None),
        ("²", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_the_pause_of_a_header(value: str | None, seconds: float | None) -> None:
    assert statuses.retry_after(value) == seconds


def test_a_date_is_a_pause_too() -> None:
    value = statuses.retry_after(email.utils.formatdate(time.time() + 100, usegmt=True))
    assert value is not None and 90 < value <= 100


def test_pauses_double_and_end() -> None:
    patience = retries.Patience(4, 1.0, 5.0)
    for attempt, whole in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (90, 5.0)):
        assert whole / 2 <= patience.delay(attempt) <= whole
    assert patience.delay(1, 3.0) == 3.0
    assert not patience.spent(4, Failed("x"))
    assert patience.spent(5, Failed("x"))
    assert patience.spent(1, Failed("x", again=False))
    assert patience.spent(1, Failed("x", after=6.0))


def test_an_answer_without_a_code_is_told_by_its_number(served: Registry, make: Make) -> None:
    served.faults.append(lambda handler: handler.answer(404, b'{"errors":[{"code":"a stranger\'s text"}]}'))
    with pytest.raises(errors.NotFound, match=r"it answers 404$"):
        make(served).read(Descriptor(oci.CONFIG, OTHER, 5))


def test_the_agent_is_named(served: Registry, make: Make) -> None:
    make(served).has(Descriptor(oci.CONFIG, OTHER, 5))
    assert served.seen[0].headers["user-agent"] == exchanges._AGENT
