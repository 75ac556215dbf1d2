""""""

from __future__ import annotations

import gzip
import json
import warnings
import zipfile
from io import BufferedReader, BytesIO
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialese.collect.files import FilesSource, read_raw, read_xml
from trialese.collect.json_files import read_json, split_page
from trialese.collect.parse import parse_study, parse_trial
from trialese.collect.source import RawStudy, Reject, StudyError
from trialese.errors import RecordError
from trialese.settings import ReadLimits

STUDY = json.loads((Path(__file__).parents[1] / "data" / "study_v2.json").read_text("utf-8"))


def read(data):
    return list(read_json(BufferedReader(BytesIO(data)), "f"))


def studies(data):
    items = read(data)
    assert all(isinstance(item, RawStudy) for item in items), items
    return [json.loads(item.data) for item in items]


def test_one_study_pretty_or_plain():
    assert studies(json.dumps(STUDY).encode()) == [STUDY]
    assert studies(json.dumps(STUDY, indent=2).encode()) == [STUDY]
    assert studies(b"\xef\xbb\xbf\n" + json.dumps(STUDY).encode() + b"\n\n") == [STUDY]


def test_arrays_and_pages():
    assert studies(json.dumps([STUDY, STUDY]).encode()) == [STUDY, STUDY]
    page = {"totalCount": 2, "studies": [STUDY, STUDY], "nextPageToken": "x"}
    assert studies(json.dumps(page, indent=1).encode()) == [STUDY, STUDY]
    assert read(b'{"studies": []}') == []


def test_json_lines_with_a_bad_line():
    line = json.dumps(STUDY).encode()
    items = read(b"\n".join([line, b"", b'{"oops', line]) + b"\n")
    assert [getattr(item, "reason", "study") for item in items] == ["study", "bad_json", "study"]
    assert items[2].origin == "f:4"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1}', "no_study"),
        (b'{"studies": 3}', "no_study"),
        (b'{"studies": [', "bad_json"),
        (b"[1", "bad_json"),
        (b'"\xff"', "no_study"),
    ],
)
def test_what_is_no_study_is_one_reject(data, reason):
    (reject,) = read(data)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.origin) == (reason, "f")


def test_an_xml_without_a_study_is_a_reject():
    (reject,) = read_xml(BufferedReader(BytesIO(b"<html/>")), "f")
    assert reject.reason == "no_study"


def test_a_document_beyond_the_limit_is_read_study_by_study():
    limits = ReadLimits(document_bytes=len(json.dumps(STUDY, indent=1)) + 500)
    for wrapped in ([STUDY] * 9, {"studies": [STUDY] * 9}, [{"studies": [STUDY] * 3}] * 3):
        data = json.dumps(wrapped, indent=1).encode()
        items = list(read_json(BufferedReader(BytesIO(data)), "f", limits))
        assert [json.loads(item.data) for item in items] == [STUDY] * 9
        assert [item.origin for item in items] == [f"f#{n}" for n in range(9)]


def test_one_value_beyond_the_limit_is_refused_with_its_name():
    limits = ReadLimits(document_bytes=2000)
    bomb = {**STUDY, "text": "x" * 9000}
    for data in ('["' + "x" * 9000, '{"a": "' + "x" * 9000):
        with pytest.raises(RecordError, match=r"limits\.document_bytes.*save it as JSON lines"):
            list(read_json(BufferedReader(BytesIO(data.encode())), "f", limits))
    small = {"protocolSection": {"identificationModule": {"nctId": "NCT00000001"}}}
    for data in (json.dumps([bomb, small]), json.dumps(bomb) + "\n" + json.dumps(small)):
        items = list(read_json(BufferedReader(BytesIO(data.encode())), "f", limits))
        assert [getattr(item, "reason", "study") for item in items] == ["too_large", "study"]
        assert "limits.document_bytes" in items[0].detail


@given(st.binary(max_size=300))
def test_any_bytes_give_studies_or_rejects(data):
    for item in split_page(data, "f"):
        assert isinstance(item, (RawStudy, Reject))


DATA = Path(__file__).parents[1] / "data"
STUDY_42 = (DATA / "study_v2.json").read_bytes()
LEGACY = (DATA / "study_legacy.xml").read_bytes()
REGISTRY = Path(__file__).parents[2].parent / "shared" / "data" / "registry"


def zip_of(path, entries, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicate names are the point of one test
        for name, data in entries:
            archive.writestr(name, data)
    return path


def ids(path):
    return [parse_trial(raw).nct_id for raw in read_raw(path) if isinstance(raw, RawStudy)]


def rejects(path):
    return [item for item in read_raw(path) if isinstance(item, Reject)]


def test_a_zip_of_both_kinds(tmp_path):
    entries = [
        ("a/one.json", STUDY_42),
        ("two.xml", LEGACY),
        ("Contents.txt", "a list\nof files"),
    ]
    path = zip_of(tmp_path / "mixed.zip", entries)
    assert ids(path) == ["NCT00000042", "NCT00000043"]
    (reject,) = rejects(path)
    assert (reject.origin, reject.reason) == ("mixed.zip:Contents.txt", "foreign")


def test_the_name_does_not_matter(tmp_path):
    for name, data in [
        ("study.csv", STUDY_42),
        ("study", LEGACY),
        ("study.xml", gzip.compress(STUDY_42)),
    ]:
        (tmp_path / name).write_bytes(data)
    assert ids(tmp_path / "study.csv") == ["NCT00000042"]
    assert ids(tmp_path / "study") == ["NCT00000043"]
    assert ids(tmp_path / "study.xml") == ["NCT00000042"]
    (tmp_path / "study.txt").write_bytes(pa.compress(STUDY_42, codec="zstd", asbytes=True))
    assert ids(tmp_path / "study.txt") == ["NCT00000042"]
    assert ids(tmp_path) == ["NCT00000043", "NCT00000042", "NCT00000042", "NCT00000042"]


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ([("../outside.json", STUDY_42)], "points outside"),
        ([("a/../../b.json", STUDY_42)], "points outside"),
        ([("/etc/study.json", STUDY_42)], "points outside"),
        ([("C:\\study.json", STUDY_42)], "points outside"),
        ([("a.json", STUDY_42), ("a.json", STUDY_42)], "stands twice"),
        ([("bomb.json", b"0" * (20 * 2**20))], "would unpack to 20,971,520 bytes"),
    ],
)
def test_an_archive_that_is_not_what_it_claims_is_refused(tmp_path, entries, complaint):
    path = zip_of(tmp_path / "bad.zip", entries)
    with pytest.raises(RecordError, match=complaint) as caught:
        list(read_raw(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_encrypted_entry_is_refused(tmp_path):
    path = zip_of(tmp_path / "secret.zip", [("a.json", STUDY_42)])
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(RecordError, match="is encrypted"):
        list(read_raw(path))


def test_overlapping_entries_are_refused(tmp_path):
    path = zip_of(tmp_path / "overlap.zip", [("a.json", STUDY_42), ("b.json", STUDY_42)])
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = bytes(4)  # the second entry starts where the first does
    path.write_bytes(data)
    with pytest.raises(RecordError, match="overlaps"):
        list(read_raw(path))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_zip_is_refused(tmp_path, share):
    path = zip_of(tmp_path / "cut.zip", [("a.json", STUDY_42)])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(RecordError, match=r"truncated or damaged zip .*; download it again"):
        list(read_raw(path))


def test_a_damaged_entry_is_a_reject_and_the_rest_is_read(tmp_path):
    path = zip_of(tmp_path / "hurt.zip", [("a.json", STUDY_42), ("b.xml", LEGACY)])
    data = bytearray(path.read_bytes())
    data[100] ^= 0xFF
    path.write_bytes(data)
    assert ids(path) == ["NCT00000043"]
    (reject,) = rejects(path)
    assert (reject.origin, reject.reason) == ("hurt.zip:a.json", "damaged_entry")


def test_truncated_gzip_and_empty_files_are_refused(tmp_path):
    path = tmp_path / "cut.json.gz"
    path.write_bytes(gzip.compress(STUDY_42)[:200])
    with pytest.raises(RecordError, match="truncated or damaged"):
        list(read_raw(path))
    path.write_bytes(b"")
    with pytest.raises(RecordError, match="empty"):
        list(read_raw(path))


def test_files_must_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordError, match=r"^studies: no such file") as caught:
        FilesSource(("studies",))
    assert str(tmp_path / "studies") in str(caught.value)
    with pytest.raises(RecordError, match="no such file; check"):
        FilesSource((str(tmp_path / "nowhere.zip"),))
    with pytest.raises(RecordError, match="no files"):
        FilesSource(())
    with pytest.raises(RecordError, match="no such file"):
        list(read_raw(tmp_path / "nowhere.zip"))


@pytest.mark.skipif(not REGISTRY.is_dir(), reason="../shared/data/registry is absent")
def test_real_records_of_both_kinds_parse():
    path = REGISTRY / "api-v2-2024-09-24.json.zip"
    with zipfile.ZipFile(path) as archive:
        named = {name.removesuffix(".json") for name in archive.namelist()}
        first = json.loads(archive.read(archive.namelist()[0]))
    found = ids(path)
    assert set(found) == named
    assert len(found) == 635
    assert found[0] == first["protocolSection"]["identificationModule"]["nctId"]
    csv_ids = ids(REGISTRY / "ctg-studies.csv")
    assert len(csv_ids) == len(set(csv_ids)) == 1605


@pytest.mark.parametrize("data", [b"{}", b"[{}]", b"[[], {}]", b'{"a": [], "b": {"c": []}}'])
def test_empty_brackets_are_no_studies_but_json(data):
    assert {item.reason for item in read(data)} == {"no_study"}
    assert read(b"[]") == []


V1 = {"NCTId": "NCT00000042", "BriefTitle": "A trial", "Condition": ["Cold", "Cough"]}


@pytest.mark.parametrize(
    "wrapped",
    [
        [{"studies": [STUDY], "nextPageToken": "x"}, {"studies": [STUDY]}],
        {"NCT00000042": STUDY, "NCT00000043": STUDY},
        {"NCT00000042": {"study": STUDY}, "NCT00000043": [STUDY]},
        {"study": STUDY, "studyVersion": 3, "earlier": {"study": STUDY}},
        {"versions": [{"version": 1, "study": STUDY}, {"version": 2, "study": STUDY}]},
        [[STUDY], [STUDY]],
        {"data": {"results": [{"node": STUDY}, {"node": STUDY}]}},
    ],
)
def test_studies_are_found_at_any_shallow_depth(wrapped):
    for indent in (None, 1):
        assert studies(json.dumps(wrapped, indent=indent).encode()) == [STUDY, STUDY]


@pytest.mark.parametrize("between", ["", " ", "\n", ",\n", "\n\x1e"])
def test_values_one_after_the_other(between):
    for indent in (None, 1):
        data = between.join([json.dumps(STUDY, indent=indent)] * 3).encode()
        assert studies(data) == [STUDY] * 3


def test_what_stands_among_studies_is_counted():
    items = read(json.dumps({"studies": [STUDY, 5, {"x": 1}, "y"]}).encode())
    assert [getattr(item, "reason", "study") for item in items] == ["study"] + ["no_study"] * 3
    items = read(json.dumps({"NCT00000001": None, "NCT00000042": STUDY}).encode())
    assert [getattr(item, "nct_id", "study") for item in items] == ["NCT00000001", "study"]
    whole = json.dumps([STUDY, STUDY]).encode()
    items = read(whole[:-40])
    assert [getattr(item, "reason", "study") for item in items] == ["study", "bad_json"]
    assert json.loads(items[0].data) == STUDY


@pytest.mark.parametrize(
    "wrapped",
    [
        {"FullStudiesResponse": {"FullStudies": [{"Rank": 1, "Study": {"ProtocolSection": {
            "IdentificationModule": {"NCTId": V1["NCTId"], "BriefTitle": V1["BriefTitle"]},
            "ConditionsModule": {"ConditionList": {"Condition": V1["Condition"]}},
        }}}]}},
        {"StudyFieldsResponse": {"StudyFields": [{
            "Rank": 1, "NCTId": ["NCT00000042"], "BriefTitle": ["A trial"],
            "Condition": ["Cold", "Cough"],
        }]}},
    ],
)  # fmt: skip
def test_api_v1_in_both_of_its_forms(wrapped):
    (raw,) = read(json.dumps(wrapped).encode())
    trial = parse_trial(raw)
    assert (trial.nct_id, trial.brief_title) == ("NCT00000042", "A trial")
    assert trial.conditions == ("Cold", "Cough")


def test_api_v1_keeps_all_that_a_trial_holds():
    study = {
        "ProtocolSection": {
            "IdentificationModule": {
                "NCTId": "NCT00000042", "OrgStudyIdInfo": {"OrgStudyId": "X-1"},
                "NCTIdAliasList": {"NCTIdAlias": ["NCT00000007"]}, "OfficialTitle": "A trial",
                "Acronym": "AT",
            },
            "StatusModule": {
                "OverallStatus": "Active, not recruiting", "WhyStopped": "Slow accrual",
                "StartDateStruct": {"StartDate": "April 2004"},
                "CompletionDateStruct": {"CompletionDate": "May 3, 2006"},
                "StudyFirstPostDateStruct": {"StudyFirstPostDate": "September 21, 2005"},
                "LastUpdatePostDateStruct": {"LastUpdatePostDate": "June 1, 2007"},
            },
            "SponsorCollaboratorsModule": {"LeadSponsor": {"LeadSponsorName": "A clinic"}},
            "DescriptionModule": {"BriefSummary": "Short.", "DetailedDescription": "Long."},
            "ConditionsModule": {"KeywordList": {"Keyword": ["wool"]}},
            "DesignModule": {
                "StudyType": "Interventional", "PhaseList": {"Phase": ["Phase 1", "Phase 2"]},
                "DesignInfo": {
                    "DesignAllocation": "Randomized",
                    "DesignInterventionModel": "Parallel Assignment",
                    "DesignPrimaryPurpose": "Treatment",
                    "DesignMaskingInfo": {"DesignMasking": "Double"},
                },
                "EnrollmentInfo": {"EnrollmentCount": "787"},
            },
            "ArmsInterventionsModule": {
                "InterventionList": {"Intervention": [{"InterventionName": "Salt"}]}
            },
            "OutcomesModule": {
                "PrimaryOutcomeList": {"PrimaryOutcome": [{"PrimaryOutcomeMeasure": "Pain"}]}
            },
            "EligibilityModule": {
                "EligibilityCriteria": "Adults", "Gender": "Female", "GenderBased": "Yes",
                "GenderDescription": "women", "HealthyVolunteers": "No", "MinimumAge": "18 Years",
                "MaximumAge": "65 Years",
            },
        },
        "DerivedSection": {"MiscInfoModule": {"VersionHolder": "December 29, 2020"}},
    }  # fmt: skip
    (raw,) = read(json.dumps({"FullStudies": [{"Study": study}]}).encode())
    parsed = parse_study(raw)
    trial = msgspec.structs.asdict(parsed.trial)
    empty = {name for name, value in trial.items() if value in ("", None, (), False)}
    assert empty == {"healthy_volunteers", "brief_title", "conditions", "synthetic",
                     "synthetic_stop_reasons"}  # fmt: skip
    assert trial["healthy_volunteers"] is False
    assert (trial["overall_status"], trial["phases"]) == (
        "ACTIVE_NOT_RECRUITING", ("PHASE1", "PHASE2"),
    )  # fmt: skip
    assert (trial["start_date"], trial["enrollment"], trial["masking"]) == (
        "2004-04", 787, "DOUBLE",
    )  # fmt: skip
    assert parsed.data_date == "2020-12-29"


@pytest.mark.parametrize(
    "wrap", ["%s", '{"studies": %s}', '{"studies": %s, "nextPageToken": "\\ud83d\\ude00"}']
)
@pytest.mark.parametrize("odd", ["\\ud800", "\\udc00\\ud800", "\x01", "\x00", "\n"])
def test_a_record_that_json_has_no_text_for_costs_no_other(study_maker, wrap, odd):
    studies = [json.dumps(study_maker(number)) for number in (1, 2, 3)]
    studies[1] = studies[1].replace("Study 2", f"a \\\\ud800 b \\ud83d\\ude00 {odd}")
    items = read((wrap % f"[{', '.join(studies)}]").encode())
    kept = [parse_study(items[place]).trial.nct_id for place in (0, 2)]
    assert (len(items), kept) == (3, ["NCT00000001", "NCT00000003"])
    with pytest.raises(StudyError) as refused:
        parse_study(items[1])
    assert refused.value.nct_id == "NCT00000002"


def test_rows_of_texts_in_json():
    rows = [{"_id": "a", "text": "first", "score": float("nan")}, "second", {"text": ["third"]}]
    columns = {"text": {"0": "first", "1": "second", "2": "third"}, "x": {"0": 1, "1": 2, "2": 3}}
    for data in (rows, {"data": [rows[0], {"text": "second"}, {"text": "third"}]}, columns):
        items = read(json.dumps(data).encode())
        assert [item.format for item in items] == ["text"] * 3
        assert [item.data["text"] for item in items] == ["first", "second", "third"]
