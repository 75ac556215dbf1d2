"""How fast and how large: a registry's worth of API v2 JSON in a zip -> snapshot.

    python benchmarks/collect_scale.py --studies 10000 100000 --folder /tmp/scale

Studies come from the `sample` source, filled up with sites, contacts and outcomes to the size
and the ratio of read to unread bytes of real records (16.4 KB a study, 3.8 KB of it kept,
deflated to about a quarter). Rivals in the same run, on the first `--rival-studies` of the
smallest zip: `json` + pandas with every field by `json_normalize`, and `json` + pandas with the
fields of a `Trial` picked by hand; both write Parquet with the same compression. Peak memory is
the largest resident size of the process plus that of its largest worker times the workers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import msgspec

from trialese.collect.sample import sample_study
from trialese.settings import SampleSettings

MEAN_BYTES = 16_400
OURS = """
import json, os, resource, sys, time
from pathlib import Path
from trialese.collect.collection import collect_snapshot
from trialese.parallel import count_cores
from trialese.settings import CollectSettings
start = time.perf_counter()
snapshot = collect_snapshot(
    CollectSettings(source="files", paths=(sys.argv[1],)), Path(sys.argv[2])
)
seconds = time.perf_counter() - start
# not ru_maxrss, which a process inherits from the one that started it
high = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
own = int(high.split()[1]) * 1024
worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({
    "seconds": seconds,
    "cpu_seconds": sum(os.times()[:4]),
    "trials": snapshot.manifest.counts["trials"],
    "rejects": snapshot.manifest.counts["rejects"],
    "own_bytes": own, "worker_bytes": worker,
    "peak_bytes": own + worker * (count_cores() if worker else 0),
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rival-studies", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, required=True, help="archives there are used again")
    parser.add_argument("--only-make", action="store_true", help="make the archives and end")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    sizes = sorted(set(arguments.studies))
    plain_bytes = {studies: prepare(arguments.folder, studies) for studies in sizes}
    if not arguments.only_make:
        report(arguments.folder, plain_bytes, arguments.rival_studies, arguments.repeats)


def prepare(folder: Path, studies: int) -> int:
    """Bytes of JSON in the archive of so many studies, which is made unless it is there."""
    path, noted = folder / f"{studies}.zip", folder / f"{studies}.bytes"
    if not noted.is_file():
        start = time.perf_counter()
        total = make_archive(path, studies)
        noted.write_text(str(total), "utf-8")
        say(f"made {path.name} in {time.perf_counter() - start:.0f} s")
    total = int(noted.read_text("utf-8"))
    say(
        f"{studies:,} studies: {total / 1e6:,.0f} MB of JSON (mean {total / studies:,.0f} bytes), "
        f"deflated to {path.stat().st_size / total:.2f}"
    )
    return total


def report(folder: Path, plain_bytes: dict[int, int], rival_studies: int, repeats: int) -> None:
    """Every size and every rival in turn, `repeats` times; ratios of the medians."""
    small, large = min(plain_bytes), max(plain_bytes)
    seconds: dict[int | str, list[float]] = {}
    rivals = {"every field": normalise, "picked fields": pick}
    for _ in range(repeats):
        for studies in plain_bytes:
            result = collect(folder / f"{studies}.zip", folder / "snapshot")
            assert result["trials"] == studies, result
            assert result["rejects"] == {}, result
            seconds.setdefault(studies, []).append(result["seconds"] / studies)
            own, worker, peak = (
                result[name] / 2**20 for name in ("own_bytes", "worker_bytes", "peak_bytes")
            )
            say(
                f"trialese, {studies:,}: {result['seconds']:.1f} s, "
                f"{result['cpu_seconds'] / studies * 1e6:.0f} us of CPU a study, "
                f"peak {peak:,.0f} MiB (own {own:,.0f}, a worker {worker:,.0f})"
            )
        for name, rival in rivals.items():
            # from the small archive: the large one's directory alone takes a second to read
            wall, cpu = timed(rival, folder / f"{small}.zip", rival_studies, folder / "rival")
            seconds.setdefault(name, []).append(wall / rival_studies)
            say(
                f"json + pandas, {name}, {rival_studies:,}: {wall:.1f} s, "
                f"{cpu / rival_studies * 1e6:.0f} us of CPU a study"
            )
    mean = plain_bytes[large] / large
    ours = statistics.median(seconds[large])
    for name, times in seconds.items():
        middle = statistics.median(times)
        who = f"trialese, {name:,}" if isinstance(name, int) else f"json + pandas, {name}"
        ratios = sorted(rival / own for rival, own in zip(times, seconds[large], strict=True))
        say(
            f"{who}: median {middle * 1e6:.0f} us a study, {mean / middle / 1e6:.0f} MB/s; "
            f"{middle / ours:.2f} times the time of trialese at {large:,} "
            f"(turn by turn {ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def say(line: str) -> None:
    print(line, flush=True)


def make_archive(path: Path, studies: int) -> int:
    """Bytes of JSON in a zip of so many studies, laid out in folders as the registry's is."""
    settings = SampleSettings(studies=studies)
    ballast = make_ballast(random.Random(7))
    total = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for index in range(studies):
            study = fill_up(sample_study(settings, index), ballast, random.Random(index))
            data = msgspec.json.encode(study)
            total += len(data)
            nct_id = f"NCT{90_000_000 + index}"
            archive.writestr(f"{nct_id[:7]}xxxx/{nct_id}.json", data)
    return total


def make_ballast(rng: random.Random) -> dict[str, list[Any]]:
    """Sites, outcomes and sentences in made-up words, to fill studies up with."""
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    weights = [1 / (place + 2) for place in range(26)]
    words = ["".join(rng.choices(letters, weights, k=rng.randint(2, 11))) for _ in range(500)]
    common = [1 / (place + 1) ** 1.1 for place in range(len(words))]

    def text(count: int) -> str:
        return " ".join(rng.choices(words, common, k=count))

    contacts = [
        {"name": text(2).title(), "role": "CONTACT", "phone": str(rng.randint(10**9, 10**10))}
        for _ in range(40)
    ]
    sites = [
        {
            "facility": text(4).title(),
            "status": "COMPLETED",
            "city": text(1).title(),
            "state": text(1).title(),
            "zip": str(rng.randint(10_000, 99_999)),
            "country": rng.choice(["Northland", "Westmark", "Southmere"]),
            "contacts": [rng.choice(contacts)],
            "geoPoint": {
                "lat": round(rng.uniform(-60, 60), 3),
                "lon": round(rng.uniform(-180, 180), 3),
            },
        }
        for _ in range(4_000)
    ]
    outcomes = [
        {"measure": text(9), "description": text(30), "timeFrame": text(3)} for _ in range(4_000)
    ]
    return {"sites": sites, "outcomes": outcomes, "texts": [text(90) for _ in range(4_000)]}


def fill_up(study: dict[str, Any], ballast: dict[str, list[Any]], rng: random.Random) -> Any:
    """The study at real size: long-tailed, as real records are."""
    protocol = study["protocolSection"]
    description = protocol["descriptionModule"]
    texts = rng.choices(ballast["texts"], k=1 + int(rng.expovariate(0.35)))
    description["detailedDescription"] = "\n\n".join(
        [description.get("detailedDescription", ""), *texts]
    )
    scale = math.exp(rng.gauss(0.0, 0.9)) / math.exp(0.9**2 / 2)
    protocol["contactsLocationsModule"]["locations"] = rng.choices(
        ballast["sites"], k=int(scale * 31)
    )
    protocol["outcomesModule"]["secondaryOutcomes"] = rng.choices(
        ballast["outcomes"], k=int(scale * 14)
    )
    study["derivedSection"] = {"miscInfoModule": {"versionHolder": "2024-09-24"}}
    return study


def collect(archive: Path, snapshot: Path) -> dict[str, Any]:
    shutil.rmtree(snapshot, ignore_errors=True)
    command = [sys.executable, "-c", OURS, str(archive), str(snapshot)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    shutil.rmtree(snapshot)
    return dict(json.loads(result.stdout))


def timed(rival: Any, archive: Path, studies: int, path: Path) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one run."""
    start, cpu_start = time.perf_counter(), time.process_time()
    rival(archive, studies).to_parquet(path, compression="zstd")
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    path.unlink()
    return seconds, cpu_seconds


def documents(archive: Path, studies: int) -> Any:
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist()[:studies]:
            yield json.loads(opened.read(name))


def normalise(archive: Path, studies: int) -> Any:
    import pandas as pd

    return pd.json_normalize(list(documents(archive, studies)))


def pick(archive: Path, studies: int) -> Any:
    import pandas as pd

    rows = []
    for study in documents(archive, studies):
        protocol = study["protocolSection"]
        identity, status = protocol["identificationModule"], protocol["statusModule"]
        design, eligibility = protocol["designModule"], protocol["eligibilityModule"]
        info = design.get("designInfo", {})
        rows.append(
            {
                "nct_id": identity["nctId"],
                "org_study_id": identity.get("orgStudyIdInfo", {}).get("id"),
                "brief_title": identity.get("briefTitle"),
                "official_title": identity.get("officialTitle"),
                "brief_summary": protocol["descriptionModule"].get("briefSummary"),
                "detailed_description": protocol["descriptionModule"].get("detailedDescription"),
                "eligibility_criteria": eligibility.get("eligibilityCriteria"),
                "sex": eligibility.get("sex"),
                "healthy_volunteers": eligibility.get("healthyVolunteers"),
                "minimum_age": eligibility.get("minimumAge"),
                "maximum_age": eligibility.get("maximumAge"),
                "overall_status": status.get("overallStatus"),
                "why_stopped": status.get("whyStopped"),
                "study_type": design.get("studyType"),
                "phases": design.get("phases", []),
                "allocation": info.get("allocation"),
                "intervention_model": info.get("interventionModel"),
                "primary_purpose": info.get("primaryPurpose"),
                "masking": info.get("maskingInfo", {}).get("masking"),
                "enrollment": design.get("enrollmentInfo", {}).get("count"),
                "conditions": protocol["conditionsModule"].get("conditions", []),
                "keywords": protocol["conditionsModule"].get("keywords", []),
                "interventions": [
                    item["name"]
                    for item in protocol["armsInterventionsModule"].get("interventions", [])
                ],
                "primary_outcomes": [
                    item["measure"]
                    for item in protocol["outcomesModule"].get("primaryOutcomes", [])
                ],
                "lead_sponsor": protocol["sponsorCollaboratorsModule"]["leadSponsor"]["name"],
                "first_posted": status["studyFirstPostDateStruct"]["date"],
                "last_update_posted": status["lastUpdatePostDateStruct"]["date"],
                "start_date": status["startDateStruct"]["date"],
                "completion_date": status["completionDateStruct"]["date"],
            }
        )
    return pd.DataFrame(rows).sort_values("nct_id")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
