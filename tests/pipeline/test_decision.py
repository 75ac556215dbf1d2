"""When a language model is adapted again, and when what came of it may take over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trialese.artifacts import write_artifact, write_bytes
from trialese.collect.collection import collect_snapshot
from trialese.corpus.store import StoredDocument
from trialese.generations import KIND, Generation
from trialese.pipeline import decision as module
from trialese.pipeline.decision import (
    Comparison,
    Decision,
    Training,
    day_after,
    decide,
    read_training,
    weigh,
)
from trialese.pretrain import staleness
from trialese.pretrain.staleness import Effect, Staleness
from trialese.recipe import RefreshSettings
from trialese.records import Corpus, Interval, Snapshot
from trialese.settings import CollectSettings, SampleSettings

SETTINGS = RefreshSettings(least_new_trials=100)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A year of 365 trials, about one a day."""
    sample = SampleSettings(studies=365, from_date="2024-01-01", to_date="2024-12-31")
    settings = CollectSettings(source="sample", sample=sample)
    return collect_snapshot(settings, tmp_path_factory.mktemp("decision") / "snapshot")


def generation(folder: Path, until: str, *, language_model: bool = True) -> Generation:
    with write_artifact(folder / "g", kind=KIND) as draft:
        if language_model:
            (draft.folder / "language-model").mkdir()
            (draft.folder / "language-model" / "config.json").write_text("{}")
        training = Training(until=until, ids=())
        (draft.folder / "training.json").write_bytes(msgspec.json.encode(training))
    assert draft.manifest is not None
    return Generation(1, folder / "g", draft.manifest)


def test_too_few_new_trials_is_not_yet_with_a_date(snapshot: Snapshot, tmp_path: Path) -> None:
    found = decide(generation(tmp_path, "2024-11-30"), snapshot, SETTINGS)
    assert found.action == "not yet"
    assert 15 <= found.new_trials <= 45
    assert found.enough_on is not None
    # From the last day on, at the rate since the training.
    assert "2025-02-10" < found.enough_on < "2025-07-01"
    assert found.enough_on in found.reason
    assert [figure.needed for figure in found.figures][1] == "at least 100"


def test_a_day_beyond_the_data_is_not_the_end_of_the_training(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = ["2024-03-01", None, "2099-01-01", "2024-06", "2024-12-31"]
    rows = [
        StoredDocument(nct_id=f"NCT{place}", text="", split="train", era="old", first_posted=day,
                       cluster=str(place))
        for place, day in enumerate(days)
    ]  # fmt: skip
    for owner in (module, staleness):
        monkeypatch.setattr(owner, "read_stored", lambda *_, **__: iter(rows))
    notes = {"data_timestamp": "2024-12-15T09:00:05"}
    corpus = Corpus(tmp_path, msgspec.structs.replace(snapshot.manifest, notes=notes))
    assert read_training(corpus).until == "2024-06"
    assert staleness.read_training(corpus)[1] == "2024-06"
    undated = replace(corpus, manifest=msgspec.structs.replace(snapshot.manifest, notes={}))
    assert read_training(undated).until == "2099-01-01"


def test_enough_in_no_year_that_calendars_know(snapshot: Snapshot, tmp_path: Path) -> None:
    many = msgspec.structs.replace(SETTINGS, least_new_trials=10**9)
    found = decide(generation(tmp_path, "2024-11-30"), snapshot, many)
    assert (found.action, found.enough_on) == ("not yet", None)
    assert found.reason.endswith("were first posted since 2024-11-30")


def test_a_day_beyond_the_data_does_not_move_the_date(snapshot: Snapshot, tmp_path: Path) -> None:
    as_of = decide(generation(tmp_path / "a", "2024-11-30"), snapshot, SETTINGS)
    manifest = msgspec.structs.replace(
        snapshot.manifest, notes={**snapshot.manifest.notes, "data_timestamp": "2024-12-15"}
    )
    early = decide(
        generation(tmp_path / "b", "2024-11-30"), replace(snapshot, manifest=manifest), SETTINGS
    )
    assert as_of.enough_on is not None and early.enough_on is not None
    assert early.enough_on < as_of.enough_on  # as many in half the days


def test_nothing_new_is_not_yet_even_if_forced(snapshot: Snapshot, tmp_path: Path) -> None:
    found = decide(generation(tmp_path, "2024-12-31"), snapshot, SETTINGS, force=True)
    assert (found.action, found.enough_on) == ("not yet", None)


def test_never_and_force_and_no_language_model(snapshot: Snapshot, tmp_path: Path) -> None:
    enough = generation(tmp_path, "2024-06-30")
    assert decide(enough, snapshot, SETTINGS, never=True).action == "never"
    few = generation(tmp_path / "few", "2024-11-30")
    assert decide(few, snapshot, SETTINGS, force=True).action == "adapt"
    none = generation(tmp_path / "none", "2024-06-30", language_model=False)
    assert decide(none, snapshot, SETTINGS, force=True).action == "no language model"


def measured(low: float, point: float, least: float | None) -> Staleness:
    effect = Effect("2024Q2", 100, 100, Interval(point, low, point + 0.1))
    return Staleness(
        "2024-06-30", (), (), (), None, 0, "advice", effect, (), least, "its control"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "action"),
    [
        (measured(0.01, 0.05, 0.04), "adapt"),
        (measured(0.01, 0.05, 0.06), "no need"),
        (measured(-0.01, 0.05, 0.04), "no need"),
        (measured(0.01, 0.05, None), "cannot tell"),
        (msgspec.structs.replace(measured(0.01, 0.05, 0.01), effect=None), "cannot tell"),
    ],
)
def test_staleness_decides_where_there_is_enough(
    found: Staleness, action: str, snapshot: Snapshot, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "_staleness", lambda *_: found)
    decided = decide(generation(tmp_path, "2024-06-30"), snapshot, SETTINGS)
    assert decided.action == action
    assert decided.reason == "advice"


def test_after_a_refusal_more_must_come_first(snapshot: Snapshot, tmp_path: Path) -> None:
    enough = generation(tmp_path, "2024-06-30")  # about 180 new trials
    found = decide(enough, snapshot, SETTINGS, tried_at=170)
    assert found.action == "not yet"
    assert "213" in found.reason
    assert found.tried_at == 170


@pytest.mark.parametrize(
    ("day", "after"),
    [
        ("2024-02-28", "2024-02-29"),
        ("2024-12-31", "2025-01-01"),
        ("2024-12", "2025-01-01"),
        ("2024-02", "2024-03-01"),
        ("2024", "2025-01-01"),
    ],
)
def test_the_day_after(day: str, after: str) -> None:
    assert day_after(day) == after


def told(low: float, high: float) -> dict[str, Any]:
    change = {"point": (low + high) / 2, "low": low, "high": high}
    return {"new": {"documents": 50, "loss": {"adapted - base": change}}}


def compared(low: float, newest: Interval | None = None) -> Comparison:
    return Comparison(
        task="sex", metric="macro-f1", difference=Interval(low + 0.02, low, low + 0.04), rows=500,
        newest=newest, newest_rows=40 if newest else 3, newest_told="" if newest else "3 texts",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("comparison", "language_model", "action", "why"),
    [
        (compared(-0.01), told(-0.2, -0.1), "promoted", "no task is worse"),
        (compared(-0.02), told(-0.2, -0.1), "refused", "may be lower by the margin"),
        (compared(-0.01), told(-0.2, 0.0), "refused", "does not read new trials better"),
        (compared(-0.01), {}, "refused", "no held-out new trials"),
        (compared(-0.01, Interval(-0.1, -0.2, -0.03)), told(-0.2, -0.1), "refused", "newest"),
        (compared(-0.01, Interval(-0.1, -0.2, 0.01)), told(-0.2, -0.1), "promoted", ""),
    ],
)
def test_a_challenger_is_weighed(
    comparison: Comparison, language_model: dict[str, Any], action: str, why: str
) -> None:
    decided = Decision(action="adapt", outcome="", reason="forced", rule=(), new_trials=300)
    found = weigh(decided, [comparison], language_model, SETTINGS)
    assert found.action == action
    assert why in found.reason
    assert found.tried_at == (300 if action == "refused" else None)
    names = [figure.name for figure in found.figures]
    assert "sex: macro-f1, challenger - champion" in names
    assert [each.value for each in found.figures if each.name.startswith("why the")] == ["forced"]


def test_every_reason_against_is_told() -> None:
    decided = Decision(action="adapt", outcome="", reason="", rule=())
    found = weigh(decided, [compared(-0.5)], told(-0.1, 0.2), SETTINGS)
    assert found.reason.count(";") == 1


def test_answers_join_the_labelled_texts(tmp_path: Path) -> None:
    from trialese.pipeline.challenge import join_answers
    from trialese.settings import StopReasonsSettings, TasksSettings
    from trialese.tasks.folds import build_examples

    write_bytes(tmp_path / "gold.tsv", b"text\tlabels\nSlow accrual\tInsufficient_Enrollment\n"
                b"No funds, sadly\tBusiness_Administrative\n")  # fmt: skip
    write_bytes(tmp_path / "answers.tsv", b"id\ttext\tlabels\nNCT1\tslow accrual.\tNegative\n"
                b"NCT2\tNobody knows\tnone\n")  # fmt: skip
    section = StopReasonsSettings(labelled=str(tmp_path / "gold.tsv"))
    settings = TasksSettings(stop_reasons=section)
    joined, said = join_answers("stop-reasons", settings, tmp_path / "answers.tsv", tmp_path / "l")
    assert said == "2 joined the labelled texts"
    found = build_examples("stop-reasons", joined, None).examples
    by_id = {example.example_id: example for example in found}
    assert by_id["answer NCT2"].labels == ()
    same = {e.cluster for e in found if e.text.lower().startswith("slow accrual")}
    assert len(same) == 1
    assert len(found) == 4
    assert join_answers("stop-reasons", settings, None, tmp_path) == (settings, "")
    plain, said = join_answers("sex", settings, tmp_path / "answers.tsv", tmp_path)
    assert plain == settings
    assert "left out" in said
