"""A corpus on disk: its Parquet files, written and read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trialese.artifacts import read_manifest
from trialese.corpus.boilerplate import Boilerplate
from trialese.errors import ArtifactError
from trialese.records import ATTRIBUTION, Corpus, Document, Drop, Split

__all__ = [
    "CARD_NAME",
    "Era",
    "OverlapRow",
    "StoredDocument",
    "corpus_card",
    "data_set_card",
    "newest_posted",
    "open_corpus",
    "read_boilerplate",
    "read_documents",
    "read_drops",
    "read_overlap",
    "read_stored",
    "write_boilerplate",
    "write_documents",
    "write_drops",
    "write_overlap",
]

Era = Literal["old", "new"]

CARD_NAME = "README.md"
_DOCUMENTS = "documents.parquet"
_DROPS = "drops.parquet"
_BOILERPLATE = "boilerplate.parquet"
_OVERLAP = "overlap.parquet"
_OVERLAP_TEXT, _OVERLAP_SHARES = ("nct_id", "split", "era"), ("old", "new", "train")
_GROUP_ROWS = 4096
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("nct_id", "cluster", "split", "era", "first_posted", "text")]
)


class StoredDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A document with what the corpus knows of it: one row of `documents.parquet`."""

    nct_id: str
    cluster: str
    split: Split
    era: Era
    first_posted: str | None
    text: str


class OverlapRow(msgspec.Struct, frozen=True, kw_only=True):
    """How much of one held-out document stands word for word in documents that are learnt from."""

    nct_id: str
    split: Split
    era: Era
    old: float
    """The share of its 8-grams that stand in train documents of the old era, 0 to 1."""
    new: float
    """The same in train documents of the new era."""
    train: float
    """The same in any of them."""


def open_corpus(path: str | Path) -> Corpus:
    """Handle on the corpus at `path`.

    Raises:
        ArtifactError: nothing there, half-written, or an artifact of another kind.
    """
    path = Path(path)
    return Corpus(path, read_manifest(path, kind="corpus"))


def read_documents(
    corpus: Corpus, *, split: Split | None = None, era: Era | None = None
) -> Iterator[Document]:
    """The documents of one split or era (of all, by default), by ascending id, streamed.

    The files are first compared with their digests, once in a process.

    Raises:
        ArtifactError: the file is missing, damaged or was altered.
    """
    for batch in _batches(corpus.path, ["nct_id", "text"], split, era, verify=True):
        for row in batch.to_pylist():
            yield Document(row["nct_id"], row["text"])


def newest_posted(corpus: Corpus, days: Iterable[str | None]) -> str:
    """The last of these days of first posting, "" if none is given.

    Days beyond the corpus's data are errors of their records: none would ever be new after them.
    """
    last = str(corpus.manifest.notes.get("data_timestamp") or "9999")[:10]
    return max((day for day in days if day and day <= last), default="")


def read_stored(corpus: Corpus | Path, *, text: bool = True) -> Iterator[StoredDocument]:
    """Every document with cluster, split and era, by ascending id, streamed.

    Without `text` the texts are "" and are not read from disk. A corpus that is being written may
    be given by its folder.
    """
    folder = corpus if isinstance(corpus, Path) else corpus.path
    columns = [name for name in _SCHEMA.names if text or name != "text"]
    for batch in _batches(folder, columns, None, None):
        for row in batch.to_pylist():
            yield StoredDocument(**({"text": ""} | row))


def read_drops(corpus: Corpus) -> list[Drop]:
    """What was removed and why, by ascending id."""
    return [Drop(**row) for row in _rows(corpus.path / _DROPS)]


def read_boilerplate(corpus: Corpus) -> list[Boilerplate]:
    """The paragraphs that stand in most documents, most frequent first."""
    return [Boilerplate(**row) for row in _rows(corpus.path / _BOILERPLATE)]


def write_documents(folder: Path, documents: Iterable[StoredDocument]) -> dict[str, Any]:
    """Counts of what was written to `documents.parquet` under `folder`."""
    splits: Counter[str] = Counter()
    characters = 0
    rows = iter(documents)
    # Default versions and encodings of Parquet carry no date: equal rows give equal bytes.
    with pq.ParquetWriter(folder / _DOCUMENTS, _SCHEMA, compression="zstd") as writer:
        while chunk := list(islice(rows, _GROUP_ROWS)):
            splits.update(f"{row.era}-{row.split}" for row in chunk)
            characters += sum(len(row.text) for row in chunk)
            writer.write_table(_table(chunk))
    return {"documents_by_split": dict(sorted(splits.items())), "characters": characters}


def write_drops(folder: Path, drops: Sequence[Drop]) -> None:
    """Write `drops.parquet` under `folder`."""
    columns = {
        "nct_id": pa.array([drop.nct_id for drop in drops], pa.string()),
        "reason": pa.array([drop.reason for drop in drops], pa.string()),
    }
    pq.write_table(pa.table(columns), folder / _DROPS, compression="zstd")


def write_boilerplate(folder: Path, paragraphs: Sequence[Boilerplate]) -> None:
    """Write `boilerplate.parquet` under `folder`."""
    columns = {
        "documents": pa.array([paragraph.documents for paragraph in paragraphs], pa.int64()),
        "text": pa.array([paragraph.text for paragraph in paragraphs], pa.string()),
    }
    pq.write_table(pa.table(columns), folder / _BOILERPLATE, compression="zstd")


def corpus_card(counts: Mapping[str, Any], notes: Mapping[str, Any]) -> str:
    """The card of a corpus in the hub's form, by which `datasets.load_dataset(folder)` opens it."""
    body = [
        f"{counts['documents']:,} documents of {counts['trials']:,} clinical trials, made by "
        "trialese: clean, deduplicated, and split by clusters of near-copies.\n",
        "**Each row says its split** (`split`: train, tune or test). All rows stand in one part: "
        "take those of your split before anything learns.\n",
        "| era and split | documents |",
        "|---|--:|",
        *(f"| {name} | {count:,} |" for name, count in counts["documents_by_split"].items()),
        "",
        "`drops` tells what was left out, and why; `boilerplate` which paragraphs stand in many; "
        "`overlap` what share of held-out documents stands in training ones, word for word.",
    ]
    tables = {
        "documents": _DOCUMENTS,
        "drops": _DROPS,
        "boilerplate": _BOILERPLATE,
        "overlap": _OVERLAP,
    }
    return data_set_card("Clinical-trial text", tables, notes, body, tasks=("fill-mask",))


def data_set_card(
    title: str,
    tables: Mapping[str, str],
    notes: Mapping[str, Any],
    body: Sequence[str],
    *,
    tasks: Sequence[str] = (),
) -> str:
    """A README.md in the hub's form: YAML that names each table's file, then Markdown.

    The first of `tables`, name -> file, is what opens by default. `notes` are those of a manifest.
    """
    front = [
        "language:",
        "- en",
        f"pretty_name: {title}",
        "tags:",
        "- trialese",
        "- clinical-trials",
    ]
    if tasks:
        front += ["task_categories:", *(f"- {task}" for task in tasks)]
    front.append("configs:")
    for place, (name, file) in enumerate(tables.items()):
        front += [f"- config_name: {name}", *(["  default: true"] if place == 0 else [])]
        front += ["  data_files:", f"  - split: {name}", f"    path: {file}"]
    facts = [
        f"- {name.replace('_', ' ')}: {notes[name]}"
        for name in ("source", "data_timestamp")
        if notes.get(name)
    ]
    if notes.get("synthetic"):
        facts.append("- **synthetic: made up by a generator; it describes no real trial**")
    thanks = notes.get("attribution") or ("" if notes.get("synthetic") else ATTRIBUTION)
    lines = ["---", *front, "---", "", f"# {title}\n", *body, "", *facts, "", thanks]
    return "\n".join(lines).rstrip() + "\n"


def write_overlap(folder: Path, rows: Sequence[OverlapRow]) -> dict[str, Any]:
    """Counts of what was written to `overlap.parquet`: by era and split, documents and their share.

    `mean` is the mean share of 8-grams that stand in training documents, `over_half` how many
    documents have more than half of theirs there.
    """
    plain = [msgspec.to_builtins(row) for row in rows]
    columns = {name: pa.array([row[name] for row in plain], pa.string()) for name in _OVERLAP_TEXT}
    columns |= {
        name: pa.array([row[name] for row in plain], pa.float64()) for name in _OVERLAP_SHARES
    }
    pq.write_table(pa.table(columns), folder / _OVERLAP, compression="zstd")
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(f"{row.era}-{row.split}", []).append(row.train)
    return {
        name: {
            "documents": len(shares),
            "mean": round(sum(shares) / len(shares), 6),
            "over_half": sum(share > 0.5 for share in shares),
        }
        for name, shares in sorted(groups.items())
    }


def read_overlap(corpus: Corpus) -> list[OverlapRow] | None:
    """What `write_overlap` wrote, by NCT id; None of a corpus that is older than it.

    Raises:
        ArtifactError: a damaged file.
    """
    path = corpus.path / _OVERLAP
    if not path.is_file():
        return None
    try:
        return [OverlapRow(**row) for row in _rows(path)]
    except TypeError as error:
        raise _damaged(path, error) from error


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    return rows


def _table(rows: Sequence[StoredDocument]) -> pa.Table:
    return pa.table(
        {name: pa.array([getattr(row, name) for row in rows], pa.string())
         for name in _SCHEMA.names}
    )  # fmt: skip


def _batches(
    folder: Path,
    columns: list[str],
    split: Split | None,
    era: Era | None,
    *,
    verify: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Row groups with the asked-for columns, rows of other splits and eras left out."""
    wanted = [(name, value) for name, value in (("split", split), ("era", era)) if value]
    needed = list(dict.fromkeys([*columns, *(name for name, _ in wanted)]))
    path = folder / _DOCUMENTS
    try:
        with pq.ParquetFile(path) as file:
            if verify:  # a bit that flipped on disk would read as another text
                read_manifest(folder, verify=True)
            for batch in file.iter_batches(batch_size=_GROUP_ROWS, columns=needed):
                for name, value in wanted:
                    batch = batch.filter(pc.equal(batch.column(name), value))  # noqa: PLW2901
                yield batch.select(columns)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ArtifactError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ArtifactError(f"{path}: missing or damaged ({first}); build the corpus again")
