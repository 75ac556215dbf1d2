"""How the corpus grows: trials of realistic length -> clean, deduplicated, split, in blocks.

    python benchmarks/corpus_scale.py --trials 10000 30000 100000 --folder /tmp/growth

Trials come from the `sample` source, lengthened by paragraphs of other synthetic studies to the
length of real ones (3.5 kB of text a trial in the mean, long-tailed), with made-up codes in them,
so that new words never end. For each size: seconds of rendering, cleaning,
deduplicating and splitting, seconds of tokenising and packing, tokens, and peak memory (largest
resident size of the process plus that of its largest worker times the workers). The slope is that
of log seconds over log trials between the last two sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from trialese.collect.collection import collect_snapshot
from trialese.collect.sample import make_plan, sample_study, tell_details
from trialese.settings import CollectSettings, SampleSettings

BUILD = """
import json, os, resource, sys, time
from pathlib import Path
from trialese.collect.snapshot import open_snapshot
from trialese.corpus.assemble import build_corpus
from trialese.parallel import count_cores
from trialese.pretrain.adapt import tokenise_corpus
from trialese.settings import BackboneSettings, BlockSettings, CorpusSettings
folder = Path(sys.argv[1])
start = time.perf_counter()
corpus = build_corpus(open_snapshot(folder / "snapshot"), CorpusSettings(), folder / "corpus")
middle = time.perf_counter()
blocks = tokenise_corpus(corpus, BackboneSettings(), BlockSettings(), folder / "blocks")
end = time.perf_counter()
# not ru_maxrss, which a process inherits from the one that started it
high = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
own = int(high.split()[1]) * 1024
worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
counts = corpus.manifest.counts
print(json.dumps({
    "corpus_seconds": middle - start, "block_seconds": end - middle,
    "documents": counts["documents"], "characters": counts["characters"],
    "clusters_of_several": counts["clusters_of_several"],
    "tokens": json.loads((folder / "blocks" / "manifest.json").read_text())["counts"]["tokens"],
    "peak_bytes": own + worker * count_cores(),
}))
"""


def main() -> None:
    """Measure every size, smallest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--folder", type=Path, required=True, help="snapshots there are used again")
    parser.add_argument("--only-make", action="store_true", help="make the snapshots and end")
    arguments = parser.parse_args()
    measured: list[tuple[int, float]] = []
    for trials in sorted(arguments.trials):
        folder = arguments.folder / str(trials)
        if not (folder / "snapshot").is_dir():
            make_snapshot(folder, trials)
        if arguments.only_make:
            continue
        command = [sys.executable, "-c", BUILD, str(folder)]
        done = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        seconds = done["corpus_seconds"] + done["block_seconds"]
        measured.append((trials, seconds))
        print(
            f"{trials:,} trials, {done['documents']:,} documents of "
            f"{done['characters'] / done['documents']:,.0f} characters, "
            f"{done['clusters_of_several']:,} clusters of several: corpus "
            f"{done['corpus_seconds']:.1f} s, blocks {done['block_seconds']:.1f} s "
            f"({done['tokens'] / done['block_seconds'] / 1e6:.2f} M tokens/s of "
            f"{done['tokens'] / 1e6:.1f} M), {seconds / trials * 1e3:.2f} ms a trial, "
            f"peak {done['peak_bytes'] / 2**20:,.0f} MiB",
            flush=True,
        )
    if len(measured) > 1:
        (few, short), (many, long) = measured[-2:]
        slope = math.log(long / short) / math.log(many / few)
        hours = long * (600_000 / many) ** max(slope, 1.0) / 60
        print(f"slope {slope:.3f}; 600,000 trials at that slope, or at 1: {hours:.0f} minutes")


def make_snapshot(folder: Path, trials: int) -> None:
    """A snapshot of so many lengthened synthetic trials at `folder`/snapshot."""
    folder.mkdir(parents=True)
    lines = folder / "studies.jsonl"
    settings = SampleSettings(studies=trials)
    with lines.open("wb") as file:
        for index in range(trials):
            study = lengthened(sample_study(settings, index), settings)
            file.write(msgspec.json.encode(study) + b"\n")
    collect_snapshot(CollectSettings(source="files", paths=(str(lines),)), folder / "snapshot")
    lines.unlink()


def lengthened(study: dict[str, Any], settings: SampleSettings) -> dict[str, Any]:
    """The study with paragraphs of other plans and codes; studies of one text stay so."""
    description = study["protocolSection"]["descriptionModule"]
    rng = random.Random(study["protocolSection"]["eligibilityModule"]["eligibilityCriteria"])
    paragraphs = [description.get("detailedDescription", "")]
    for _ in range(int(rng.lognormvariate(1.25, 0.8))):
        code = f"{rng.choice('ABCDEFGH')}{rng.choice('klmnopqr')}-{rng.randrange(10**5)}"
        details = tell_details(rng, make_plan(settings, rng))
        paragraphs.append(f"Part {code} of the protocol. {details}")
    description["detailedDescription"] = "\n\n".join(filter(None, paragraphs))
    return study


if __name__ == "__main__":
    main()
