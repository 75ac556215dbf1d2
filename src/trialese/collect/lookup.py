"""Some trials by their NCT ids: of a snapshot, without reading the rest, or of the registry."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from trialese.collect.merge import TRIAL_COLUMNS
from trialese.collect.snapshot import TRIALS_NAME
from trialese.errors import ArtifactError
from trialese.records import Snapshot, Trial
from trialese.settings import CollectSettings

__all__ = ["fetch_trial", "find_trials"]


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


def fetch_trial(nct_id: str, settings: CollectSettings) -> Trial | None:
    """The trial of that number, or of which it is an alias, as the registry has it now.

    None if the registry knows no such number.

    Raises:
        RegistryError: the registry cannot be reached.
        RecordError: it answers something that is no study.
    """
    from trialese.collect.parse import parse_trial
    from trialese.collect.query import query_of
    from trialese.collect.registry import RegistryClient
    from trialese.collect.source import RawStudy

    whole = query_of(settings)
    query = {name: whole[name] for name in ("format", "fields")}
    data = RegistryClient(settings).study(nct_id, query)
    return None if data is None else parse_trial(RawStudy(nct_id, "v2", data))
