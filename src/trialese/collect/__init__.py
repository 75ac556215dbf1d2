"""Registry records in, Snapshot out."""

from __future__ import annotations

from trialese.lazy import load_lazily

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
    "trialese.collect.lookup": ("fetch_trial", "find_trials"),
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

__getattr__, __dir__ = load_lazily(__name__, _HOME_OF)
