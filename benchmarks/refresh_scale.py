"""What a refresh costs against doing all of it again, by the size of the collection.

python benchmarks/refresh_scale.py --folder F --trials 1000 10000 100000 --changed 50

A registry on loopback serves synthetic studies. A run over them has a linear classifier of sex;
then so many studies change, a few come and go, and the run is refreshed. *Full* is collecting the
whole query afresh and taking that over, which scores every trial. Prints processor seconds of both,
without those of the registry, requests, and bytes of the generation. Rows are compared at every
size, scores (of one more scoring of all) up to `--compare-scores` trials.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.loopback import Registry, serving  # noqa: E402
from trialese.artifacts import write_bytes  # noqa: E402
from trialese.collect.collection import collect_snapshot  # noqa: E402
from trialese.collect.sample import sample_study  # noqa: E402
from trialese.collect.snapshot import open_snapshot, read_trials  # noqa: E402
from trialese.generations import current_generation  # noqa: E402
from trialese.pipeline.refresh import refresh  # noqa: E402
from trialese.recipe import Recipe, parse_recipe  # noqa: E402
from trialese.settings import SampleSettings  # noqa: E402
from trialese.tasks.finetune import finetune  # noqa: E402
from trialese.tasks.history import extend_history, read_held  # noqa: E402

RECIPE = """
name = "run"
folder = "{folder}"
[collect]
source = "registry"
url = "{url}"
query = "all"
pause_seconds = 0.0
[tasks]
names = ["sex"]
[tasks.sex]
run_folds = 1
max_trials = 1000
"""


def made_up(sample: SampleSettings, number: int) -> dict[str, Any]:
    """A study of the sample, as a real one; nothing was updated after the sample's last day."""
    study = sample_study(sample, number)
    del study["synthetic"], study["syntheticStopReasons"]
    updated = study["protocolSection"]["statusModule"]["lastUpdatePostDateStruct"]
    updated["date"] = min(updated["date"], sample.to_date)
    return study


def change(studies: list[dict[str, Any]], sample: SampleSettings, changed: int, day: str) -> None:
    """Change so many studies; add and remove a tenth as many."""
    step = max(1, len(studies) // changed)
    for study in studies[::step][:changed]:
        study["protocolSection"]["statusModule"]["lastUpdatePostDateStruct"] = {"date": day}
        study["protocolSection"]["eligibilityModule"]["eligibilityCriteria"] += f"\n* Since {day}"
    for _ in range(changed // 10):
        studies.pop(len(studies) // 3)
    first = len(studies) + changed
    for number in range(changed // 10):
        study = made_up(sample, first + number)
        status = study["protocolSection"]["statusModule"]
        status["studyFirstPostDateStruct"] = status["lastUpdatePostDateStruct"] = {"date": day}
        studies.append(study)


def _seconds(server: Registry) -> float:
    return time.process_time() - server.busy_seconds


def measure(folder: Path, trials: int, changed: int, *, compare_scores: bool) -> dict[str, Any]:
    """One row of the table."""
    sample = SampleSettings(studies=trials, from_date="2005-01-01", to_date="2024-08-31")
    home = folder / str(trials)
    shutil.rmtree(home, ignore_errors=True)
    with serving(Registry([made_up(sample, number) for number in range(trials)])) as server:
        server.day = "2024-09-24"
        recipe: Recipe = parse_recipe(RECIPE.format(folder=home, url=server.url))
        run = home / "run"
        snapshot = collect_snapshot(recipe.collect, run / "snapshot")
        finetune(
            "sex", "tfidf", snapshot=snapshot, settings=recipe.tasks, path=run / "sex" / "tfidf"
        )
        write_bytes(run / "recipe.json", msgspec.json.encode(recipe))
        begun = _seconds(server)
        refresh(run, recipe)
        full = _seconds(server) - begun
        change(server.studies, sample, changed, "2024-09-25")
        server.day = "2024-09-25"
        gc.collect()
        asked, begun = len(server.asked), _seconds(server)
        outcome = refresh(run, recipe)
        seconds, requests = _seconds(server) - begun, len(server.asked) - asked
        now = current_generation(run)
        assert now is not None
        asked, begun = len(server.asked), _seconds(server)
        fresh = collect_snapshot(recipe.collect, home / "fresh")
        full, full_requests = full + _seconds(server) - begun, len(server.asked) - asked
    same = all(
        one == other
        for one, other in zip(
            read_trials(open_snapshot(now.snapshot)), read_trials(fresh), strict=True
        )
    )
    if compare_scores:
        layers, model = home / "layers", now.classifiers["sex"]
        extend_history(model, fresh, layers, generation=1, work=home / "work")
        held, again = read_held(now.predictions("sex")), read_held(sorted(layers.glob("*.parquet")))
        same = same and {n: (r.labels, r.scores) for n, r in held.items()} == {
            n: (r.labels, r.scores) for n, r in again.items()
        }
    shutil.rmtree(home, ignore_errors=True)
    return {
        "trials": trials,
        "changed": outcome.changed,
        "scored": outcome.scored,
        "refresh_seconds": round(seconds, 2),
        "full_seconds": round(full, 2),
        "refresh_requests": requests,
        "full_requests": full_requests,
        "new_bytes": outcome.new_bytes,
        "equal": same,
        "scores_compared": compare_scores,
    }


def main() -> None:
    """Print one line of JSON a size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--trials", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--changed", type=int, default=50)
    parser.add_argument("--compare-scores", type=int, default=20_000)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    for trials in asked.trials:
        compare = trials <= asked.compare_scores
        row = measure(asked.folder, trials, asked.changed, compare_scores=compare)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
