from __future__ import annotations

from pathlib import Path

import pytest

from trialese.collect.collection import collect_snapshot
from trialese.collect.snapshot import TRIALS_NAME, find_trials, read_trials
from trialese.errors import ArtifactError
from trialese.settings import CollectSettings, SampleSettings


def test_some_trials_by_their_ids(tmp_path: Path) -> None:
    settings = CollectSettings(sample=SampleSettings(studies=50))
    snapshot = collect_snapshot(settings, tmp_path / "snapshot")
    everything = {trial.nct_id: trial for trial in read_trials(snapshot)}
    wanted = [*list(everything)[::7], "NCT00000001", next(iter(everything))]
    assert find_trials(snapshot, wanted) == {
        nct_id: everything[nct_id] for nct_id in wanted if nct_id in everything
    }
    assert find_trials(snapshot, []) == {}
    (snapshot.path / TRIALS_NAME).write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="collect again"):
        find_trials(snapshot, wanted)
