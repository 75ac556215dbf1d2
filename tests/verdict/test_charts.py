from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialese.records import Predictions
from trialese.settings import VerdictSettings
from trialese.verdict.charts import (
    difference_strips,
    label_strips,
    learning_panels,
    make_axis,
    part_strips,
    part_timelines,
    reliability_panel,
    system_look,
)
from trialese.verdict.judge import judge

Runs = dict[str, list[Predictions]]
QUICK = VerdictSettings(resamples=100)


@given(st.lists(st.floats(-1e4, 1e4).map(lambda x: round(x, 6)), max_size=6))
def test_axis_holds_its_values_and_has_a_readable_number_of_ticks(values: list[float]) -> None:
    axis = make_axis(values)
    assert 3 <= len(axis.ticks) <= 13
    assert len({axis.text(tick) for tick in axis.ticks}) == len(axis.ticks)
    span = axis.high - axis.low
    for value in values:
        assert axis.low - 1e-6 * span <= value <= axis.high + 1e-6 * span
        assert 0 <= axis.share(value) <= 100


def test_axis_of_known_values() -> None:
    axis = make_axis([0.013, 0.087])
    assert axis.ticks == (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09)
    assert axis.share(0.05) == pytest.approx(50)
    assert axis.text(0.05, sign=True) == "+0.05"


def test_zero_is_never_left_unlabelled() -> None:
    axis = make_axis([-0.013, 0.087])
    assert not axis.is_minor(axis.ticks.index(0.0))
    assert axis.is_minor(axis.ticks.index(0.0) + 1)


def test_labels_are_ordered_by_support_and_name_their_figures(runs: Runs) -> None:
    verdict = judge(runs, QUICK)
    axis, strips = label_strips(verdict)
    support = {label.label: label.support for label in verdict.scores[0].labels}
    assert [strip.name for strip in strips] == sorted(support, key=lambda n: -support[n])
    assert [mark.look for mark in strips[0].marks] == ["adapted", "base", "baseline"]
    first = next(x for x in verdict.scores[0].labels if x.label == strips[0].name)
    assert f"adapted F1 {first.f1.point:.4f} [{first.f1.low:.4f}" in strips[0].sentence
    assert strips[0].marks[0].at == pytest.approx(100 * first.f1.point, abs=1e-3)
    assert axis.ticks[-1] == 1.0


def test_differences_always_show_zero(made: Callable[..., Runs]) -> None:
    verdict = judge(made(systems=("adapted", "base", "prior"), skill={"base": 0.5}), QUICK)
    far = [d for d in verdict.differences if d.conclusion == "better"]
    axis, strips = difference_strips(far)
    assert 0.0 in axis.ticks
    assert all(strip.marks[0].look == "better" for strip in strips)
    assert all(mark.low <= mark.at <= mark.high for strip in strips for mark in strip.marks)


def test_learning_curves_by_run_and_era_without_the_noisy_train_rows() -> None:
    rows = [
        {
            "stage": stage,
            "step": step,
            "tokens": step * 1000,
            "era": era,
            "split": split,
            "loss": 3.0 - step / 100,
            "top1": 0.4 + step / 1000,
        }
        for stage in ("base", "adapter")
        for step in (0, 50, 100)
        for era, split in (("new", "test"), ("old", "test"), ("new", "train"))
    ]
    panels = learning_panels(rows)
    assert [panel.title.split(": ")[1] for panel in panels] == ["base", "base"] + ["adapter"] * 2
    accuracy = panels[2]
    assert accuracy.unit == "thousand tokens"
    assert [curve.name for curve in accuracy.curves] == ["new trials, test", "old trials, test"]
    across = [x for x, _ in accuracy.curves[0].points]
    assert across == sorted(across)
    assert accuracy.curves[0].points[0][1] > accuracy.curves[0].points[-1][1]  # y runs downwards
    assert "new trials, test: 0.4000 at the start, 0.5000 at the end" in accuracy.sentence


def test_phases_of_a_run_follow_one_another() -> None:
    rows = [
        {"stage": "base", "phase": phase, "tokens": tokens, "era": "old", "split": "test",
         "loss": loss, "top1": 0.1}
        for phase, tokens, loss in (
            ("head", 0, 9.0), ("head", 400_000, 5.0), ("base", 0, 5.0), ("base", 600_000, 4.0)
        )
    ]  # fmt: skip
    loss = next(panel for panel in learning_panels(rows) if "Loss" in panel.title)
    assert loss.unit == "million tokens"
    assert [x for x, _ in loss.curves[0].points] == [0.0, 40.0, 40.0, 100.0]


def test_no_curves_no_panels() -> None:
    assert learning_panels([]) == []


def test_reliability_panel_leaves_out_thin_bins(runs: Runs) -> None:
    notes = judge(runs, QUICK).notes["reliability"]["base"]
    panel = reliability_panel("base", notes)
    diagonal, given, cooled = panel.curves
    assert diagonal.points == ((0.0, 100.0), (100.0, 0.0))
    bins = notes["as_given"]
    kept = [n for n, count in enumerate(bins["count"]) if count >= 10]
    assert len(given.points) == len(kept) < 16
    assert given.points[0] == pytest.approx(
        (100 * bins["forecast"][kept[0]], 100 - 100 * bins["share"][kept[0]]), abs=1e-2
    )
    assert cooled.name == f"after temperature {notes['temperature_median']:.2f}"


def test_no_two_models_look_alike() -> None:
    systems = ("adapted", "control", "base", "tfidf")
    shown = [SimpleNamespace(system=system) for system in systems]
    assert [system_look(system, shown) for system in systems] == [
        "adapted",
        "other",
        "base",
        "baseline",
    ]
    own = [SimpleNamespace(system=system) for system in ("mine", "yours")]
    assert [system_look(each.system, own) for each in own] == ["adapted", "base"]


def parts(*rows: tuple[str, float, int]) -> list[dict[str, object]]:
    """Parts as `compare_parts` gives them: name, gain of the adapted model, documents."""

    def near(point: float) -> dict[str, float]:
        return {"point": point, "low": point - 0.01, "high": point + 0.01}

    return [
        {"part": part, "documents": documents, "tokens": 9}
        | (
            {
                name: {
                    "base": near(0.4), "control": near(0.41), "adapted": near(0.4 + gain),
                    "adapted - control": near(gain - 0.01), "adapted - base": near(gain),
                }
                for name in ("top1", "loss")
            }
            if documents >= 5
            else {}
        )
        for part, gain, documents in rows
    ]  # fmt: skip


def test_years_stand_in_their_places_and_new_trials_begin_where_they_do() -> None:
    rows = parts(("2005", 0.0, 9), ("2007", 0.01, 9), ("2008", 0.1, 9), ("2010", 0.1, 2))
    accuracy, change = part_timelines(rows, "2008-01-01")
    assert [name for _, name, _ in accuracy.years] == ["2005", "2007", "2008"]  # 2010: too few
    assert accuracy.border == pytest.approx(100 * 3 / 4)
    assert [name for name, *_ in accuracy.series] == ["base", "control", "adapted"]
    assert [name for name, *_ in change.series] == ["adapted - control", "adapted - base"]
    _, look, marks, places = change.series[0]
    assert look == "adapted" and places == tuple(sorted(places))
    assert marks[0].high < marks[0].at < marks[0].low  # from the top
    assert change.up.low <= 0 and "0.090 in 2008" in change.sentence
    assert (
        part_timelines(rows[:1], None) == []
        and part_timelines(rows, "1990-01-01")[0].border is None
    )


def test_areas_are_ordered_by_documents() -> None:
    (axis, strips, looks), (_, changes, pairs) = part_strips(
        parts(("eye", 0.1, 7), ("heart", 0.2, 30), ("skin", 0.3, 4))
    )
    assert [strip.name for strip in strips] == ["heart", "eye"]
    assert len(set(looks.values())) == 3 == len(strips[0].marks)
    assert strips[0].marks[-1].at == pytest.approx(axis.share(0.6))
    assert list(pairs) == ["adapted - control", "adapted - base"] and len(changes[0].marks) == 2
    assert part_strips([]) == []
