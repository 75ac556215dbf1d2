"""Registry records in, Snapshot out."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "trialese.collect.archives": ("read_raw",),
    "trialese.collect.changes": ("Changes", "compare_snapshots"),
    "trialese.collect.earlier": ("read_ids",),
    "trialese.collect.estimate": ("Estimate", "estimate_collection"),
    "trialese.collect.inspection": (
        "Finding",
        "Summary",
        "changed_fields",
        "quality_report",
        "summarise_snapshot",
    ),
    "trialese.collect.lookup": ("find_trials",),
    "trialese.collect.parse": ("parse_trial",),
    "trialese.collect.parse_table": ("text_row",),
    "trialese.collect.snapshot": (
        "collect_snapshot",
        "open_snapshot",
        "open_source",
        "read_rejects",
        "read_trials",
        "read_trials_from_file",
        "snapshot_inputs",
    ),
    "trialese.collect.source": ("ATTRIBUTION", "RawStudy", "Reject", "Source", "StudyError"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'trialese.collect' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
