import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trialese.collect.files import read_raw
from trialese.collect.parse import parse_trial
from trialese.errors import RecordError

TABLE = pa.table({"id": ["NCT00000045", None], "text": ["Hats.", "Scarves."], "n": [1, None]})


def trials(path):
    return [parse_trial(raw) for raw in read_raw(path)]


def test_parquet_with_a_text_column(tmp_path):
    pq.write_table(TABLE, tmp_path / "texts")
    first, second = trials(tmp_path / "texts")
    assert (first.nct_id, first.detailed_description) == ("NCT00000045", "Hats.")
    assert second.nct_id.startswith("TEXT-")


def test_a_folder_saved_by_datasets(tmp_path):
    # What `datasets.Dataset.save_to_disk` leaves: a stream of batches and two JSON files.
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text("{}")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert [trial.detailed_description for trial in trials(tmp_path / "saved")] == [
        "Hats.",
        "Scarves.",
    ]


def test_an_arrow_file(tmp_path):
    with pa.ipc.new_file(tmp_path / "texts", TABLE.schema) as writer:
        writer.write_table(TABLE)
    assert len(trials(tmp_path / "texts")) == 2


def test_damage_and_missing_columns_are_refused(tmp_path):
    pq.write_table(TABLE, tmp_path / "texts")
    whole = (tmp_path / "texts").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match="truncated or damaged"):
        trials(tmp_path / "cut")
    pq.write_table(TABLE.drop_columns(["text"]), tmp_path / "other")
    with pytest.raises(RecordError, match="a table needs a column 'text'"):
        trials(tmp_path / "other")
