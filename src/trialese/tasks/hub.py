"""Labelled data sets of the Hugging Face hub, by id and commit, through its own cache."""

from __future__ import annotations

import re
from pathlib import Path

from trialese.errors import RecordError

__all__ = ["is_hub_id", "locate_labelled"]

_TABLES = ("*.tsv", "*.csv", "*.jsonl", "*.json", "*.parquet")
_ON_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_id(labelled: str) -> bool:
    """Whether it is `owner/name@revision` and no file."""
    return _ON_HUB.fullmatch(labelled) is not None and not Path(labelled).exists()


def locate_labelled(labelled: str) -> Path:
    """The file, or the folder with the tables of a hub data set, such as
    `opentargets/clinical_trial_reason_to_stop@` and a commit.

    huggingface_hub honours HF_HUB_OFFLINE and its cache.

    Raises:
        RecordError: a branch or tag, which may hold other rows tomorrow; or no connection, and
            not in the cache; or no such data set.
    """
    found = _ON_HUB.fullmatch(labelled)
    if found is None or Path(labelled).exists():
        return Path(labelled)
    name, revision = found["name"], found["revision"]
    if not _COMMIT.fullmatch(revision):
        raise RecordError(
            f"{labelled}: {revision!r} is no commit; write the 40 digits that the hub shows under "
            "'Files and versions', so that the same rows are read tomorrow"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(
            snapshot_download(
                name, repo_type="dataset", revision=revision, allow_patterns=list(_TABLES)
            )
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise RecordError(
            f"{labelled}: the hub has no such data set or commit; check both"
        ) from error
    except Exception as error:  # the transport's errors share no parent with the hub's own
        raise RecordError(
            f"{labelled}: cannot be fetched (no hub connection and not in the cache); connect, or "
            "give a local file"
        ) from error
