"""What a run remembers between commands: from which key each stage's artifact was made."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trialese.artifacts import digest_of, digest_of_file, write_bytes
from trialese.errors import RecordError

__all__ = ["LEDGER_NAME", "digest_of_input", "read_ledger", "write_ledger"]

LEDGER_NAME = "run.json"

Ledger = dict[str, dict[str, str]]


def digest_of_input(path: Path) -> str:
    """sha256 of an input file from outside the run, or of every file in a folder by its path.

    Raises:
        RecordError: nothing there.
    """
    if path.is_dir():
        members = sorted(member for member in path.rglob("*") if member.is_file())
        return digest_of({str(m.relative_to(path)): digest_of_file(m) for m in members})
    if not path.is_file():
        raise RecordError(f"{path}: no such input file; check the path in the recipe")
    return digest_of_file(path)


def read_ledger(home: Path) -> Ledger:
    """Stage -> key and digest of its artifact; a lost ledger only means that stages run again."""
    try:
        return msgspec.json.decode((home / LEDGER_NAME).read_bytes(), type=Ledger)
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def write_ledger(home: Path, ledger: Ledger) -> None:
    """Put the ledger into the run's folder, at once."""
    write_bytes(home / LEDGER_NAME, msgspec.json.encode(ledger, order="sorted"))
