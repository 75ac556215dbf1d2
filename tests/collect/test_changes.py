import json
from pathlib import Path

from trialese.collect.collection import collect_snapshot
from trialese.collect.diff import compare_snapshots
from trialese.settings import CollectSettings


def snapshot_of(studies, folder):
    folder.mkdir()
    path = folder / "studies.json"
    path.write_text(json.dumps(studies))
    return collect_snapshot(
        CollectSettings(source="files", paths=(str(path),)), Path(folder / "snapshot")
    )


def test_new_changed_vanished_and_renamed(tmp_path, study_maker):
    older = [study_maker(number) for number in (1, 2, 3, 4, 5)]
    newer = [study_maker(number) for number in (1, 2, 4, 6, 7)]
    newer[1]["protocolSection"]["statusModule"]["overallStatus"] = "COMPLETED"
    newer[4]["protocolSection"]["identificationModule"]["nctIdAliases"] = ["NCT00000005"]
    changes = compare_snapshots(
        snapshot_of(newer, tmp_path / "newer"), snapshot_of(older, tmp_path / "older")
    )
    assert changes.new == ("NCT00000006",)
    assert changes.changed == ("NCT00000002", "NCT00000007")
    assert changes.vanished == ("NCT00000003",)
    assert changes.renamed == (("NCT00000005", "NCT00000007"),)
    assert changes.unchanged == 2


def test_an_alias_known_to_the_older_snapshot_only(tmp_path, study_maker):
    older, newer = study_maker(2), study_maker(1)
    older["protocolSection"]["identificationModule"]["nctIdAliases"] = ["NCT00000001"]
    changes = compare_snapshots(
        snapshot_of([newer], tmp_path / "newer"), snapshot_of([older], tmp_path / "older")
    )
    assert changes.new == changes.vanished == ()
    assert changes.renamed == (("NCT00000002", "NCT00000001"),)


def test_a_snapshot_is_unchanged_against_itself(tmp_path, study_maker):
    snapshot = snapshot_of([study_maker(n) for n in range(1, 9)], tmp_path / "one")
    changes = compare_snapshots(snapshot, snapshot)
    assert (changes.new, changes.changed, changes.vanished) == ((), (), ())
    assert changes.unchanged == 8
