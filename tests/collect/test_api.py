""""""

from __future__ import annotations

import datetime
import email.utils
import itertools
import time

import msgspec
import pytest

from trialese.collect.api import (
    FIELDS,
    Page,
    RefusedError,
    RegistryClient,
    Version,
    query_of,
    year_windows,
)
from trialese.collect.parse_v2 import parse_v2
from trialese.collect.source import RawStudy
from trialese.errors import RegistryError
from trialese.settings import CollectSettings


def test_the_query_asks_for_windows_modules_and_an_order():
    query = query_of(CollectSettings(since="2022-12-04", updated_since="2023-01-01", query="wool"))
    assert query["filter.advanced"] == (
        "AREA[StudyFirstPostDate]RANGE[2022-12-04,MAX] AND "
        "AREA[LastUpdatePostDate]RANGE[2023-01-01,MAX]"
    )
    assert query["query.term"] == "wool"
    assert query["sort"] == "StudyFirstPostDate:asc"
    assert "filter.advanced" not in query_of(CollectSettings())


def test_every_module_that_a_trial_needs_is_asked_for(study_maker):
    study = study_maker(1)
    protocol = study["protocolSection"]
    asked = {name[0].lower() + name[1:] for name in FIELDS}
    whole = parse_v2(RawStudy("x", "v2", study))
    study["protocolSection"] = {name: protocol[name] for name in protocol if name in asked}
    assert len(study["protocolSection"]) < len(protocol)
    assert parse_v2(RawStudy("x", "v2", study)) == whole


def test_windows_of_years_leave_no_day_out():
    windows = [
        query["filter.advanced"] for query in year_windows({"format": "json"}, last_year=2001)
    ]
    assert windows == [
        "AREA[StudyFirstPostDate]RANGE[MIN,1999-12-31]",
        "AREA[StudyFirstPostDate]RANGE[2000-01-01,2000-12-31]",
        "AREA[StudyFirstPostDate]RANGE[2001-01-01,MAX]",
    ]


def client_of(url, *, pause_seconds=0.0, **changes):
    settings = CollectSettings(
        source="registry", url=url, pause_seconds=pause_seconds, timeout_seconds=5, **changes
    )
    return RegistryClient(settings)


def test_version(registry):
    assert client_of(registry.url).version() == Version("2024-09-24T09:00:05", "2.0.3")
    assert registry.user_agents == {"trialese/0.1.0 (clinical-trial corpus builder)"}


@pytest.mark.parametrize("fault", ["429", "500", "html", "truncate", "reset"])
def test_a_passing_fault_is_retried(registry, fault):
    registry.faults = {0: fault, 1: fault}
    body, page = client_of(registry.url).page({"pageSize": "5", "sort": "StudyFirstPostDate"})
    assert len(page.studies) == 5
    assert msgspec.json.decode(body, type=Page) == page
    assert len(registry.asked) == 3


def test_retry_after_is_honoured(registry):
    registry.faults = {0: "429"}
    client_of(registry.url).version()
    (first, *_), (second, *_) = registry.asked
    assert second - first >= 0.3


def test_requests_keep_their_pace(registry):
    client = client_of(registry.url, pause_seconds=0.1)
    registry.faults = {1: "500"}
    for _ in range(3):
        client.version()
    times = [at for at, *_ in registry.asked]
    assert len(times) == 4
    # The server sees a request a little after it starts, so allow for that much jitter.
    assert all(later - earlier >= 0.08 for earlier, later in itertools.pairwise(times))


def test_a_lasting_fault_ends_in_one_line(registry):
    registry.faults = dict.fromkeys(range(10), "500")
    with pytest.raises(RegistryError, match="status 500, 3 times; try again later") as caught:
        client_of(registry.url, retries=2).version()
    assert "\n" not in str(caught.value)


def test_nobody_there_ends_in_one_line():
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9/api/v2/version: connection failed"):
        client_of("http://127.0.0.1:9/api/v2", retries=1).version()


def test_a_wrong_request_is_not_repeated(registry):
    with pytest.raises(RefusedError, match="400: Page token is expired"):
        client_of(registry.url).page({"pageToken": "9-10"})
    assert len(registry.asked) == 1


class Answers:
    """A transport that gives prepared answers, as another HTTP client could be put in."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def get(self, url, **keywords):
        status, body, headers = self.answers.pop(0)
        return type("Response", (), {"status_code": status, "content": body, "headers": headers})


def ask(*answers):
    slept = []
    settings = CollectSettings(source="registry", pause_seconds=1.0, retries=3)
    client = RegistryClient(
        settings, session=Answers(*answers), sleep=slept.append, clock=lambda: 0.0
    )
    return client, slept


GOOD = (200, b'{"dataTimestamp": "2024-09-24", "apiVersion": "2"}', {})


def test_retry_after_as_a_date():
    until = datetime.datetime.fromtimestamp(time.time() + 90, datetime.UTC)
    header = {"Retry-After": email.utils.format_datetime(until, usegmt=True)}
    client, slept = ask((503, b"", header), GOOD)
    client.version()
    assert 85 < slept[0] <= 90


def test_the_wait_doubles_without_retry_after():
    client, slept = ask((500, b"", {}), (500, b"", {}), (500, b"", {}), GOOD)
    client.version()
    assert [seconds for seconds in slept if seconds != 1.0] == [2.0, 4.0]


def test_an_hour_is_too_long_to_wait():
    client, _ = ask((429, b"", {"Retry-After": "7200"}))
    with pytest.raises(RegistryError, match="asks to wait 7,200 s; come back then"):
        client.version()


@pytest.mark.parametrize("status", [301, 418])
def test_an_unexpected_status_names_the_setting(status):
    client, _ = ask((status, b"", {}))
    with pytest.raises(RegistryError, match=f"unexpected status {status}; check `collect.url`"):
        client.version()
