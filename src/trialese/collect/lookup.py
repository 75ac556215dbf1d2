"""Some trials of a snapshot by their NCT ids, without reading the rest."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from trialese.collect.merge import TRIAL_COLUMNS
from trialese.collect.snapshot import TRIALS_NAME
from trialese.errors import ArtifactError
from trialese.records import Snapshot, Trial

__all__ = ["find_trials"]


def find_trials(snapshot: Snapshot, nct_ids: Collection[str]) -> dict[str, Trial]:
    """NCT id -> trial, of those that the snapshot holds.

    Trials are sorted by NCT id in groups of some thousand; only groups that may hold one are read.

    Raises:
        ArtifactError: the snapshot is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not nct_ids:
        return {}
    file = snapshot.path / TRIALS_NAME
    try:
        table = pq.read_table(
            file,
            columns=TRIAL_COLUMNS.names,
            filters=[("nct_id", "in", sorted(set(nct_ids)))],
        )
        found = msgspec.convert(table.to_pylist(), list[Trial])
    except (pa.ArrowException, OSError, msgspec.ValidationError) as error:
        raise ArtifactError(f"{file}: damaged ({error}); collect again") from error
    return {trial.nct_id: trial for trial in found}
