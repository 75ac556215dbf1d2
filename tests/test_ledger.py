"""The ledger of a run, and the digest of what comes from outside."""

from pathlib import Path

import pytest

from trialese.errors import RecordError
from trialese.pipeline.stages import LEDGER_NAME, digest_of_input, read_ledger, write_ledger


def test_what_is_written_is_read(tmp_path: Path) -> None:
    ledger = {"corpus": {"key": "k", "digest": "d"}}
    write_ledger(tmp_path, ledger)
    assert read_ledger(tmp_path) == ledger


def test_a_lost_or_damaged_ledger_is_empty(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) == {}
    (tmp_path / LEDGER_NAME).write_text("{", encoding="utf-8")
    assert read_ledger(tmp_path) == {}


def test_an_input_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "a.csv"
    file.write_text("x", encoding="utf-8")
    before = digest_of_input(file), digest_of_input(tmp_path / "in")
    file.write_text("y", encoding="utf-8")
    after = digest_of_input(file), digest_of_input(tmp_path / "in")
    assert not set(before) & set(after)
    with pytest.raises(RecordError, match="nowhere: no such input file"):
        digest_of_input(tmp_path / "nowhere")
