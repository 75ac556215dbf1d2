"""Data sets of the hub, out of a cache laid out as huggingface_hub lays it out. No network."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trialese.errors import RecordError
from trialese.hub import is_hub_id, locate_labelled
from trialese.settings import SexSettings, StopReasonsSettings, TasksSettings
from trialese.tasks.folds import build_examples
from trialese.tasks.stop_reasons import STOP_REASONS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REASONS = f"opentargets/clinical_trial_reason_to_stop@{COMMIT}"
SEX = f"Kira-Asimov/gender_clinical_trial@{COMMIT}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def snapshot(cache: Path, labelled: str) -> Path:
    """The folder that the hub's client would have downloaded."""
    name, commit = labelled.split("@")
    folder = cache / f"datasets--{name.replace('/', '--')}" / "snapshots" / commit
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# a card, which is no table\n")
    return folder


def test_one_column_a_label(cache: Path) -> None:
    rows = [
        {"text": text, "label_descriptions": "x", **{x: x in held for x in STOP_REASONS.labels}}
        for text, held in (
            ("Low accrual", ("Insufficient_Enrollment",)),
            ("No money, and toxic", ("Business_Administrative", "Safety_Sideeffects")),
            ("Sponsor went bankrupt", ("Business_Administrative",)),
        )
    ]
    folder = snapshot(cache, REASONS)
    (folder / "data.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    settings = TasksSettings(stop_reasons=StopReasonsSettings(labelled=REASONS))
    found = build_examples("stop-reasons", settings, None)
    assert [(e.text, e.labels) for e in found.examples][1] == (
        "No money, and toxic",
        ("Business_Administrative", "Safety_Sideeffects"),
    )
    (folder / "data.json").write_text(json.dumps(rows, indent=1))  # an array instead of lines
    assert build_examples("stop-reasons", settings, None).digest == found.digest


def test_id_input_and_label_in_several_parts(cache: Path) -> None:
    folder = snapshot(cache, SEX) / "data"
    folder.mkdir()
    for part, rows in enumerate((("Men with asthma", "Male"), ("Pain", None)), start=0):
        table = pa.table(
            {
                "id": [f"NCT0000000{part}"],
                "input": [rows[0]],
                "label": pa.array([rows[1]], pa.string()),
                "__index_level_0__": [part],
            }
        )
        pq.write_table(table, folder / f"train-0000{part}-of-00003.parquet")
    words = [f"{letter * 5} {letter * 7}" for letter in "cdefghijklmnopqrstuvwxyz"]
    more = pa.table(
        {
            "id": ["a", "b", *words],
            "input": ["Women", "Gout", *words],
            "label": ["Female", "None", *(["All", "Male"] * 12)],
        }
    )
    pq.write_table(more, folder / "train-00002-of-00003.parquet")

    def build(missing: str) -> list[tuple[str, tuple[str, ...]]]:
        section = SexSettings(labelled=SEX, missing=missing)  # type: ignore[arg-type]
        found = build_examples("sex", TasksSettings(sex=section), None)
        assert found.dropped == ({"no_sex": 2} if missing == "drop" else {})
        rows = [(e.example_id, e.labels) for e in found.examples]
        assert rows[-24:] == [(w, (("All", "Male")[n % 2],)) for n, w in enumerate(words)]
        return rows[:-24]

    known = [("NCT00000000", ("Male",)), ("a", ("Female",))]
    assert build("drop") == known
    assert build("label") == [
        known[0], ("NCT00000001", ("None",)), known[1], ("b", ("None",))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labelled", "message"),
    [
        (REASONS, "cannot be fetched .no hub connection and not in the cache"),
        ("owner/name@main", "'main' is no commit; write the 40 digits"),
    ],
)
def test_what_cannot_be_had_is_one_line(cache: Path, labelled: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        locate_labelled(labelled)


def test_a_file_is_no_hub_id(tmp_path: Path) -> None:
    assert is_hub_id(SEX)
    assert not is_hub_id("data/gold.tsv")
    assert locate_labelled("data/gold.tsv") == Path("data/gold.tsv")
    assert not is_hub_id("a/b/c@d")


def test_a_folder_without_tables_is_refused(cache: Path) -> None:
    snapshot(cache, REASONS)
    settings = TasksSettings(stop_reasons=StopReasonsSettings(labelled=REASONS))
    with pytest.raises(RecordError, match="no table in this folder"):
        build_examples("stop-reasons", settings, None)
