"""Killed or out of space in mid-write: the earlier corpus is whole, and the next run finishes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trialese.artifacts import verify_files
from trialese.corpus.assemble import assemble_corpus
from trialese.corpus.store import open_corpus, read_documents
from trialese.records import Trial
from trialese.settings import CorpusSettings

BUILD = """
import os, random, resource, signal, sys
from pathlib import Path
from trialese.corpus.assemble import assemble_corpus
from trialese.errors import TrialeseError
from trialese.records import Trial
from trialese.settings import CorpusSettings

path, phase, most_bytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if most_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

def trials():
    for number in range(600):
        words = random.Random(number).choices([f"word{n}" for n in range(500)], k=150)
        yield Trial(nct_id=f"NCT{number:08d}", brief_summary=" ".join(words))

def progress(what, done, total):
    if what == phase:
        os.kill(os.getpid(), signal.SIGKILL)

try:
    assemble_corpus(trials(), CorpusSettings(), path, workers=int(sys.argv[4]), progress=progress)
except TrialeseError as error:
    sys.exit(str(error))
"""


def build(path: Path, phase: str = "", most_bytes: int = 0, workers: int = 1) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(path), phase, str(most_bytes), str(workers)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def one_trial(nct_id: str) -> list[Trial]:
    return [Trial(nct_id=nct_id, brief_summary=f"A corpus of one trial called {nct_id}. " * 9)]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    return assemble_corpus(one_trial("NCT1"), CorpusSettings(), tmp_path / "corpus").path


def check_whole(path: Path, nct_id: str) -> None:
    verify_files(path)
    assert [document.nct_id for document in read_documents(open_corpus(path))] == [nct_id]


@pytest.mark.parametrize(
    ("phase", "workers"),
    [("corpus: trials rendered", 2), ("corpus: writing documents", 1)],
)
def test_sigkill(earlier: Path, phase: str, workers: int) -> None:
    assert build(earlier, phase, workers=workers)[0] == -signal.SIGKILL
    check_whole(earlier, "NCT1")
    assemble_corpus(one_trial("NCT2"), CorpusSettings(), earlier)
    check_whole(earlier, "NCT2")
    assert [path.name for path in earlier.parent.iterdir() if path.is_dir()] == ["corpus"]


@pytest.mark.parametrize("most_bytes", [50_000, 500_000])
def test_a_file_that_cannot_grow(earlier: Path, most_bytes: int) -> None:
    """A limit on file size stands for a full disk; the second one hits when most is done."""
    code, told = build(earlier, most_bytes=most_bytes)
    assert code == 1
    assert told.count("\n") == 1
    assert "free some space" in told
    check_whole(earlier, "NCT1")
    assemble_corpus(one_trial("NCT2"), CorpusSettings(), earlier)
    check_whole(earlier, "NCT2")
