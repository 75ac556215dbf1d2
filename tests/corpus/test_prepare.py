"""Preparing one trial, and the same by several processes."""

import random
import sys
from pathlib import Path

import pytest

from trialese.corpus.assemble import Prepared, Preparer, prepare_trials
from trialese.corpus.dedup import Fingerprinter
from trialese.corpus.render import render_document
from trialese.errors import ArtifactError
from trialese.records import Trial
from trialese.settings import CorpusSettings

SETTINGS = CorpusSettings()


def make_trials(number: int) -> list[Trial]:
    return [
        Trial(
            nct_id=f"NCT{place:08d}",
            brief_summary=" ".join(random.Random(place).choices(["α", "trial", "of", "b"], k=90)),
        )
        for place in range(number)
    ]


def test_prepared_is_rendered_and_fingerprinted() -> None:
    trial = make_trials(1)[0]
    prepared = Preparer(SETTINGS)(trial)
    text = render_document(trial, SETTINGS.render).text
    expected = Fingerprinter(SETTINGS.dedup)(text)
    found = prepared.fingerprint()
    assert prepared.text == text
    assert found.exact == expected.exact
    assert found.shingles.tolist() == expected.shingles.tolist()
    assert found.bands.tolist() == expected.bands.tolist()
    assert len(prepared.paragraph_hashes()) == 1


def test_what_is_dropped_carries_its_reason_alone() -> None:
    assert Preparer(SETTINGS)(Trial(nct_id="NCT1")) == Prepared("NCT1", None, "empty")


@pytest.mark.parametrize("number", [0, 700])
def test_two_processes_give_the_same_in_the_same_order(number: int) -> None:
    trials = make_trials(number)
    alone = list(prepare_trials(trials, SETTINGS))
    assert list(prepare_trials(iter(trials), SETTINGS, workers=2)) == alone
    assert [prepared.nct_id for prepared in alone] == [trial.nct_id for trial in trials]


def test_stopping_early_ends_the_workers() -> None:
    prepared = prepare_trials(make_trials(700), SETTINGS, workers=2)
    assert next(prepared).nct_id == "NCT00000000"
    prepared.close()  # warnings are errors: a child left running would be one


def test_a_worker_that_dies_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ArtifactError, match=r"a worker process ended early \(exit 1\)"):
        list(prepare_trials(make_trials(3), SETTINGS, workers=2))


def test_a_script_without_a_main_guard_may_use_workers(tmp_path: Path) -> None:
    import subprocess

    script = tmp_path / "script.py"
    script.write_text(
        "from trialese.corpus.assemble import prepare_trials\n"
        "from trialese.records import Trial\n"
        "from trialese.settings import CorpusSettings\n"
        "trials = [Trial(nct_id='NCT1', brief_summary='words of a trial ' * 20)]\n"
        "print(len(list(prepare_trials(trials, CorpusSettings(), workers=2))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
