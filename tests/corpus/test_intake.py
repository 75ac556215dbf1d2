"""Where prepared trials wait: eras, and what is given back."""

from pathlib import Path

import pytest

from trialese.corpus.assemble import Intake, Prepared, Preparer, era_of
from trialese.records import Trial
from trialese.settings import CorpusSettings


@pytest.mark.parametrize(
    ("posted", "new_from", "era"),
    [
        ("2022-12-04", "2022-12-04", "new"),
        ("2022-12-03", "2022-12-04", "old"),
        ("2022-12", "2022-12-04", "old"),
        (None, "2022-12-04", "old"),
        ("1999-01-01", None, "new"),
        (None, None, "new"),
    ],
)
def test_era(posted: str | None, new_from: str | None, era: str) -> None:
    assert era_of(posted, new_from) == era


def test_texts_come_back_as_they_went_in(tmp_path: Path) -> None:
    settings = CorpusSettings(new_from="2020-01-01")
    prepare = Preparer(settings)
    texts = {f"NCT{row}": f"Summary: {'≥ é 東 word ' * 30}{row}" for row in range(9, 0, -1)}
    with Intake(settings, tmp_path) as intake:
        for nct_id, text in texts.items():
            summary = text.removeprefix("Summary: ")
            intake.take(prepare(Trial(nct_id=nct_id, brief_summary=summary)))
        intake.take(Prepared("NCT0", None, "empty"))
        clusters = intake.clusters()
        rows = intake.keep(clusters)
        stored = list(intake.stored(rows, clusters))
        assert intake.trials == 10
        assert [drop.reason for drop in intake.drops] == ["empty"]
    assert {row.nct_id: row.text for row in stored} == texts
    assert [row.nct_id for row in stored] == sorted(texts)
    assert list(tmp_path.iterdir()) == []  # the waiting files have no name
