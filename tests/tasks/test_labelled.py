"""Data sets of the hub, out of a cache laid out as huggingface_hub lays it out. No network."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trialese.errors import RecordError
from trialese.hub import is_hub_id, locate_labelled
from trialese.recipe import parse_recipe
from trialese.records import Example
from trialese.settings import (
    DedupSettings,
    SexSettings,
    SilverSettings,
    StopReasonsSettings,
    TasksSettings,
)
from trialese.tasks.draft import draft_recipe
from trialese.tasks.folds import build_examples, describe_section
from trialese.tasks.labelled import read_labelled, read_silver, silver_examples
from trialese.tasks.sex import SEX
from trialese.tasks.stop_reasons import STOP_REASONS

GOLD = Path(__file__).parents[2].parent / "shared" / "data" / "stop_reasons" / "gold.tsv"


def write(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_joined_labels_from_tsv(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.tsv", 'text\tlabels\n"said ""no"""\tNegative|Regulatory\nslow\tNo_Context\n'
    )
    first, second = read_labelled(path, STOP_REASONS)
    assert (first.text, first.labels) == ('said "no"', ("Negative", "Regulatory"))
    assert (second.example_id, second.labels) == ("row-000002", ("No_Context",))


def test_all_kinds_of_file_agree(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [("low accrual", ["Insufficient_Enrollment"]), ("covid, funding", ["Covid19"])]
    wide = [
        {"text": text, **{label: int(label in labels) for label in STOP_REASONS.labels}}
        for text, labels in rows
    ]
    pq.write_table(pa.Table.from_pylist(wide), tmp_path / "wide.parquet")
    header = ",".join(wide[0])
    lines = [",".join(f'"{value}"' for value in row.values()) for row in wide]
    found = [
        read_labelled(path, STOP_REASONS)
        for path in (
            tmp_path / "wide.parquet",
            write(tmp_path, "wide.csv", "\n".join([header, *lines]) + "\n"),
            write(tmp_path, "wide.jsonl", "\n".join(map(json.dumps, wide)) + "\n"),
            write(tmp_path, "l.tsv", "text\tlabels\n" + "".join(f"{t}\t{v[0]}\n" for t, v in rows)),
        )
    ]
    assert found[0] == found[1] == found[2] == found[3]
    assert [e.labels for e in found[0]] == [("Insufficient_Enrollment",), ("Covid19",)]


def test_reads_id_input_label_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "s.csv", "id,input,label\nNCT1,Men with gout,Male\n")
    (example,) = read_labelled(path, SEX)
    assert (example.example_id, example.text, example.labels) == (
        "NCT1",
        "Men with gout",
        ("Male",),
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "text\tlabels\nx\tBoredom\n", r"row 1: unknown label 'Boredom'"),
        ("a.tsv", "text\tlabels\nx\tSuccess\n  \tSuccess\n", r"row 2: the text is empty"),
        ("a.tsv", "texts\tlabels\nx\tSuccess\n", r"row 1: no text column"),
        ("a.tsv", "text\tSuccess\nx\t1\n", r"row 1: no column `labels`.*Another_Study is missing"),
        ("a.tsv", "text\tlabels\nx\tSuccess\ty\n", r"row 1 has 3 cells where the header has 2"),
        ("a.tsv", 'text\tlabels\n"x\tSuccess\n', r"malformed.*quote"),
        ("a.csv", "", r"no header"),
        ("a.csv", "text,labels\n", r"no labelled row"),
        ("a.jsonl", '{"text": "x"\n', r"row 1 is no JSON"),
        ("a.jsonl", "[1]\n", r"row 1 is no JSON object"),
        ("a.jsonl", '{"text": 3, "labels": ""}\n', r"column text holds 3, no text"),
        ("a.xlsx", "x", r"unknown kind of file; give .tsv"),
        ("a.parquet", "x", r"no readable Parquet"),
        ("a.csv", "id,text,labels\n1,a,Success\n1,b,Success\n", r"row 2: id '1' stands twice"),
    ],
)
def test_bad_input_names_the_row_and_the_cure(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(RecordError, match=message) as caught:
        read_labelled(path, STOP_REASONS)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_cell_that_is_neither_0_nor_1_is_refused(tmp_path: Path) -> None:
    row = dict.fromkeys(STOP_REASONS.labels, 0) | {"text": "x", "Success": 0.3}
    path = write(tmp_path, "a.jsonl", json.dumps(row) + "\n")
    with pytest.raises(RecordError, match=r"row 1: Success is 0.3; write 0 or 1"):
        read_labelled(path, STOP_REASONS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "why_stopped,text,labels\nslow,a long summary,Success\n"),
        ("a.jsonl", '{"data": {"text": "a", "Why Stopped": "b"}, "labels": "Success"}\n'),
        ("a.jsonl", '{"text": "a", "labels": ""}\n{"text": "", "input": "b", "labels": ""}\n'),
    ],
)
def test_the_column_of_texts_is_never_guessed_among_several(
    tmp_path: Path, name: str, content: str
) -> None:
    path = write(tmp_path, name, content)
    message = r"texts may be those of .* or .*--text-column NAME.*text_column in a recipe"
    with pytest.raises(RecordError, match=message) as caught:
        read_labelled(path, STOP_REASONS)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(RecordError, match=message):
        read_silver(path, "labels", STOP_REASONS)


def test_the_chosen_column_of_several_texts_is_read_and_others_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trialese")
    path = write(tmp_path, "a.csv", "why_stopped,text,labels\nslow,a long summary,Success\n")
    (found,) = read_labelled(path, STOP_REASONS, text_column="Why Stopped")
    assert found.text == "slow"
    ((found,), _) = read_silver(path, "labels", STOP_REASONS, text_column="Why Stopped")
    assert found.text == "slow"
    assert "texts from" not in caplog.text
    path = write(tmp_path, "b.csv", "id,Stop Reason,nct_id,labels\n7,slow,NCT00000001,Success\n")
    (found,) = read_labelled(path, STOP_REASONS)
    assert (found.example_id, found.text) == ("NCT00000001", "slow")
    assert caplog.messages == [
        f"{path}: texts from the column 'Stop Reason'",
        f"{path}: rows are named by the column 'nct_id', not 'id'; --id-column NAME names another",
    ]


def test_a_column_that_a_label_tool_nests_may_be_named(tmp_path: Path) -> None:
    choice = {"value": {"choices": ["Success"]}}
    row = {
        "id": 7,
        "data": {"title": "A trial", "Our Reason": "slow"},
        "annotations": [{"result": [choice]}],
    }
    path = write(tmp_path, "studio.json", json.dumps([row]))
    (found,) = read_labelled(path, STOP_REASONS, text_column="our reason")
    assert (found.example_id, found.text, found.labels) == ("7", "slow", ("Success",))
    path = write(tmp_path, "b.jsonl", json.dumps({**row, "text": "other", "label": "Success"}))
    (found,) = read_labelled(path, STOP_REASONS, text_column="our reason", label_column="label")
    assert (found.text, found.labels) == ("slow", ("Success",))
    ((found,), _) = read_silver(path, "label", STOP_REASONS, text_column="our reason")
    assert found.text == "slow"
    path = write(tmp_path, "c.jsonl", json.dumps({"data": {"x": "slow", "y": "b", "kind": "k"}}))
    (declared,) = parse_recipe(
        draft_recipe(path, text_column="x", label_column="kind")
    ).tasks.declared
    assert (declared.text_column, declared.label_column) == ("x", "kind")


def test_the_column_of_labels_is_never_guessed_among_several(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "a.csv", "text,labels,annotation\na,Success,Negative\n")
    with pytest.raises(RecordError, match=r"labels and in annotation.*--label-column NAME"):
        read_labelled(path, STOP_REASONS)
    (found,) = read_labelled(path, STOP_REASONS, label_column="annotation")
    assert found.labels == ("Negative",)
    path = write(tmp_path, "b.csv", "text,label,annotation\na,Success,me too\nb,Success,\n")
    assert [each.labels for each in read_labelled(path, STOP_REASONS)] == [("Success",)] * 2
    assert "b.csv: labels are read from the column 'label'" in caplog.text
    # Beside names, numbers are but their codes: a slip in the names is still told as one.
    path = write(tmp_path, "c.csv", "text,label,label_text\na,3,Boredom\nb,4,Success\n")
    with pytest.raises(RecordError, match="row 1: unknown label 'Boredom'"):
        read_labelled(path, STOP_REASONS)


def test_a_drafted_recipe_holds_the_columns_and_guesses_none(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "why_stopped,text,label,annotation\nslow,long,a,b\nx,y,b,c\n")
    with pytest.raises(RecordError, match=r"texts may be those of .*--text-column NAME"):
        draft_recipe(path, label_column="label")
    with pytest.raises(RecordError, match=r"label and in annotation.*--label-column NAME"):
        draft_recipe(path, text_column="text")
    drafted = draft_recipe(path, text_column="why stopped", label_column="annotation")
    (declared,) = parse_recipe(drafted).tasks.declared
    assert (declared.text_column, declared.label_column) == ("why_stopped", "annotation")
    assert declared.labels == ("b", "c")
    path = write(tmp_path, "b.csv", "text,label,label_text\nslow,0,a\nx,1,b\n")
    (declared,) = parse_recipe(draft_recipe(path)).tasks.declared
    assert declared.labels == ("a", "b")


def test_missing_file_and_wrong_encoding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RecordError, match="no such labelled file"):
        read_labelled(tmp_path / "none.tsv", STOP_REASONS)
    with pytest.raises(RecordError, match=r"^none\.tsv: no such") as caught:
        read_labelled("none.tsv", STOP_REASONS)
    assert str(Path("none.tsv").absolute()) in str(caught.value)
    (tmp_path / "latin.tsv").write_bytes("text\tlabels\ncafé\tSuccess\n".encode("latin-1"))
    assert [e.text for e in read_labelled(tmp_path / "latin.tsv", STOP_REASONS)] == ["café"]
    assert "line 2: not UTF-8, read as Windows-1252" in caplog.text


@pytest.mark.skipif(not GOLD.is_file(), reason="../shared/data is not here")
def test_gold_labels_are_read_whole() -> None:
    examples = read_labelled(GOLD, STOP_REASONS)
    counts = Counter(label for example in examples for label in example.labels)
    assert len(examples) == 3372
    assert (counts["Insufficient_Enrollment"], counts["Success"]) == (972, 19)
    assert set(counts) == set(STOP_REASONS.labels)


DEDUP = DedupSettings(shingle_words=1)
ROWS = (
    ("slow accrual", "Insufficient_Enrollment"),
    ("the sponsor ran out of money", "Business_Administrative"),
    ("The sponsor ran out of money.", "Business_Administrative"),
    ("the sponsor ran out of  MONEY", "Negative"),
    ("investigator left for another hospital", "Study_Staff_Moved|Negative"),
    ("a date got here", "13.06.2002"),
    ("", "Negative"),
    ("nobody said why", ""),
)


def written(folder: Path, rows: tuple[tuple[str, str], ...] = ROWS) -> Path:
    path = folder / "silver.tsv"
    lines = ["stop_reason\tprediction", *("\t".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    rows, left_out = read_silver(written(tmp_path), "prediction", STOP_REASONS)
    assert [row.labels for row in rows][-1] == ("Study_Staff_Moved", "Negative")
    assert len(rows) == 5
    assert left_out == {"unknown label '13.06.2002'": 1, "no text": 1, "no label": 1}
    with pytest.raises(RecordError, match=r"no column 'labels'; the table has stop_reason, pred"):
        read_silver(tmp_path / "silver.tsv", "labels", STOP_REASONS)


def test_labels_may_be_lists(tmp_path: Path) -> None:
    path = tmp_path / "silver.jsonl"
    path.write_text('{"text": "slow accrual", "found": ["Insufficient_Enrollment", "Negative"]}\n')
    rows, _ = read_silver(path, "found", STOP_REASONS)
    assert [row.labels for row in rows] == [("Insufficient_Enrollment", "Negative")]


def test_each_text_once_with_what_most_rows_say_and_none_near_a_labelled_one(
    tmp_path: Path,
) -> None:
    settings = SilverSettings(table=str(written(tmp_path)), column="prediction", epochs=3)
    labelled = [Example("row-000001", "Slow accrual!", ("Insufficient_Enrollment",))]
    silver = silver_examples(STOP_REASONS, settings, labelled, DEDUP)
    told = {example.text: example.labels for example in silver.examples}
    assert told == {
        "the sponsor ran out of money": ("Business_Administrative",),
        "investigator left for another hospital": ("Study_Staff_Moved", "Negative"),
    }
    assert silver.settings.epochs == 3
    assert silver.left_out["near a labelled text"] == 1
    assert silver.left_out["the text of another row"] == 2
    written(tmp_path, (*ROWS, ("&nbsp;", "Negative")))  # nothing is left of it when clean
    again = silver_examples(STOP_REASONS, settings, labelled, DEDUP)
    assert again.digest == silver.digest
    assert again.left_out["no text"] == silver.left_out["no text"] + 1
    near = [Example(f"row-{n}", text, ()) for n, (text, _) in enumerate(ROWS) if text]
    with pytest.raises(RecordError, match="every text is near a labelled one"):
        silver_examples(STOP_REASONS, settings, near, DEDUP)


def test_the_column_of_silver_texts_may_be_named(tmp_path: Path) -> None:
    table = tmp_path / "silver.csv"
    table.write_text("text,document,labels\na trial,slow accrual,Insufficient_Enrollment\n")
    ambiguous = SilverSettings(table=str(table))
    with pytest.raises(RecordError, match=r"'text' or 'document'; .*silver\.text_column"):
        silver_examples(STOP_REASONS, ambiguous, [], DEDUP)
    named = msgspec.structs.replace(ambiguous, text_column="document")
    assert silver_examples(STOP_REASONS, named, [], DEDUP).examples[0].text == "slow accrual"
    for is_model in (False, True):
        plain, told = (
            describe_section(StopReasonsSettings(silver=each), is_model=is_model)["silver"]
            for each in (ambiguous, named)
        )
        assert "text_column" not in plain  # what was fitted before stays finished
        assert told == {**plain, "text_column": "document"}


def test_the_digest_follows_texts_and_labels(tmp_path: Path) -> None:
    settings = SilverSettings(table=str(written(tmp_path)), column="prediction")
    one, same = (silver_examples(STOP_REASONS, settings, [], DEDUP) for _ in range(2))
    written(tmp_path, (*ROWS, ("nobody said why", "No_Context")))
    two = silver_examples(STOP_REASONS, settings, [], DEDUP)
    assert one.digest == same.digest != two.digest


COMMIT = "0123456789abcdef0123456789abcdef01234567"
REASONS = f"opentargets/clinical_trial_reason_to_stop@{COMMIT}"
SEX_hub = f"Kira-Asimov/gender_clinical_trial@{COMMIT}"


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
    folder = snapshot(cache, SEX_hub) / "data"
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
        section = SexSettings(labelled=SEX_hub, missing=missing)  # type: ignore[arg-type]
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
    assert is_hub_id(SEX_hub)
    assert not is_hub_id("data/gold.tsv")
    assert locate_labelled("data/gold.tsv") == Path("data/gold.tsv")
    assert not is_hub_id("a/b/c@d")


def test_a_folder_without_tables_is_refused(cache: Path) -> None:
    snapshot(cache, REASONS)
    settings = TasksSettings(stop_reasons=StopReasonsSettings(labelled=REASONS))
    with pytest.raises(RecordError, match="no table in this folder"):
        build_examples("stop-reasons", settings, None)
