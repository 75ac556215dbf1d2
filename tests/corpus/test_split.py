"""Splits and folds depend on the cluster and the seed, and come in the stated shares."""

import subprocess
import sys
from collections import Counter

import pytest

from trialese.corpus.split import assign_fold, assign_split, check_split
from trialese.errors import RecipeError
from trialese.settings import SplitSettings

CLUSTERS = [f"NCT{number:08d}" for number in range(20_000)]


def test_shares_come_out_as_stated() -> None:
    settings = SplitSettings(tune_share=0.05, test_share=0.10, seed=3)
    counts = Counter(assign_split(cluster, settings) for cluster in CLUSTERS)
    assert counts["test"] == pytest.approx(2000, abs=150)  # 3.5 standard deviations
    assert counts["tune"] == pytest.approx(1000, abs=110)
    assert sum(counts.values()) == len(CLUSTERS)


def test_folds_are_balanced_and_independent_of_the_split() -> None:
    folds = [assign_fold(cluster, folds=5, seed=7) for cluster in CLUSTERS]
    counts = Counter(folds)
    assert set(counts) == {0, 1, 2, 3, 4}
    assert max(counts.values()) - min(counts.values()) < 400
    test = [assign_split(cluster, SplitSettings(seed=7)) == "test" for cluster in CLUSTERS]
    in_test = Counter(fold for fold, held_out in zip(folds, test, strict=True) if held_out)
    assert min(in_test.values()) > 320  # 2,000 over five folds


def test_another_seed_gives_another_assignment() -> None:
    one = [assign_split(cluster, SplitSettings(seed=1)) for cluster in CLUSTERS[:500]]
    two = [assign_split(cluster, SplitSettings(seed=2)) for cluster in CLUSTERS[:500]]
    assert one != two


def test_another_process_agrees() -> None:
    """Python's own hash differs from process to process; ours must not."""
    code = (
        "from trialese.corpus import assign_fold;"
        "print([assign_fold(f'c{n}', folds=7, seed=1) for n in range(50)])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert told.strip() == str([assign_fold(f"c{n}", folds=7, seed=1) for n in range(50)])


def test_no_folds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        assign_fold("c", folds=0, seed=1)


@pytest.mark.parametrize(
    "settings",
    [
        SplitSettings(tune_share=0.5, test_share=0.5),
        SplitSettings(tune_share=-0.1),
        SplitSettings(by="date"),
        SplitSettings(test_from="2024-01-01"),
        SplitSettings(by="date", tune_from="2024-02-01", test_from="2024-01-01"),
    ],
)
def test_settings_that_make_no_split_are_refused(settings: SplitSettings) -> None:
    with pytest.raises(RecipeError, match=r"corpus\.split: "):
        check_split(settings)


@pytest.mark.parametrize(
    ("posted", "split"),
    [(None, "train"), ("2023-12-31", "train"), ("2024-01-01", "test"), ("2024-01", "train")],
)
def test_by_date_without_a_tune_date(posted: str | None, split: str) -> None:
    settings = SplitSettings(by="date", test_from="2024-01-01")
    assert assign_split("c", settings, first_posted=posted) == split
