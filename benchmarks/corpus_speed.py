"""Text to blocks: trialese against `datasets.map` with `group_texts` as in Hugging Face's run_mlm.

Both start from the same Parquet file of documents and end with blocks of 128 tokens on disk, in
the same run, on the same cores, in turns. Needs the `bench` extra (datasets).

    python benchmarks/corpus_speed.py CORPUS [--repeats 3]
    python benchmarks/corpus_speed.py --sample 5000
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from trialese.parallel import count_cores

BLOCK_TOKENS = 128


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("corpus", nargs="?", type=Path, help="a corpus folder")
    arguments.add_argument("--sample", type=int, default=5000, help="synthetic trials, without one")
    arguments.add_argument("--repeats", type=int, default=3)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(
            json.dumps(measure(given.corpus, given.sample, given.repeats, Path(folder)), indent=1)
        )


def measure(path: Path | None, sample: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Tokens a second of each way, by medians, and the tokens that each one loses."""
    from trialese.corpus.store import open_corpus
    from trialese.pretrain.backbone import load_tokenizer
    from trialese.settings import BackboneSettings

    corpus = open_corpus(path) if path else make_corpus(sample, folder)
    tokenizer = load_tokenizer(BackboneSettings())
    cores = count_cores()
    ways: dict[str, Callable[[Path], int]] = {
        "trialese across": lambda out: ours(corpus, tokenizer, "across", out),
        "trialese within": lambda out: ours(corpus, tokenizer, "within", out),
        "datasets.map, 1 process": lambda out: rival(corpus, tokenizer, None, out),
        f"datasets.map, {cores} processes": lambda out: rival(corpus, tokenizer, cores, out),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    kept: dict[str, int] = {}
    for turn in range(repeats):
        for name, way in ways.items():
            out = folder / f"{name.replace(' ', '-')}-{turn}"
            start = time.perf_counter()
            kept[name] = way(out)
            seconds[name].append(time.perf_counter() - start)
    total = kept["trialese across"]
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best = min(time for name, time in medians.items() if name.startswith("datasets"))
    return {
        "cores": cores,
        "documents": corpus.manifest.counts["documents"],
        "tokens": total,
        "seconds": {name: [round(time, 2) for time in times] for name, times in seconds.items()},
        "tokens_per_second": {name: round(total / time) for name, time in medians.items()},
        "times_the_best_rival": round(best / medians["trialese across"], 2),
        "tokens_lost": {
            name: total - tokens for name, tokens in kept.items() if "within" not in name
        }
        | {"prior art (2109 tokens, groups of 16)": prior_art_loss(corpus, tokenizer, folder)},
    }


def make_corpus(studies: int, folder: Path) -> Any:
    """A corpus of synthetic trials."""
    from trialese.collect.collection import collect_snapshot
    from trialese.corpus.assemble import build_corpus
    from trialese.settings import CollectSettings, CorpusSettings, SampleSettings

    collect = CollectSettings(sample=SampleSettings(studies=studies))
    snapshot = collect_snapshot(collect, folder / "snapshot")
    return build_corpus(snapshot, CorpusSettings(), folder / "corpus")


def ours(corpus: Any, tokenizer: Any, packing: Any, out: Path) -> int:
    """Tokens in the blocks, special ones included, padding not."""
    from trialese.corpus.blocks import read_facts
    from trialese.corpus.packing import pack_blocks
    from trialese.corpus.store import read_documents
    from trialese.settings import BlockSettings

    settings = BlockSettings(block_tokens=BLOCK_TOKENS, packing=packing)
    pack_blocks(read_documents(corpus), tokenizer.backend_tokenizer, settings, out)
    return read_facts(out).counts["tokens"]


def rival(corpus: Any, tokenizer: Any, processes: int | None, out: Path) -> int:
    """Tokens in the blocks of run_mlm.py (transformers, examples/pytorch/language-modeling)."""
    import datasets

    datasets.disable_progress_bars()
    raw = datasets.Dataset.from_parquet(
        str(corpus.path / "documents.parquet"), cache_dir=str(out), columns=["text"]
    )

    def tokenize(examples: dict[str, list[Any]]) -> Any:
        return tokenizer(examples["text"], return_special_tokens_mask=True)

    def group_texts(examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        joined = {key: list(chain(*examples[key])) for key in examples}
        length = len(joined[next(iter(examples))]) // BLOCK_TOKENS * BLOCK_TOKENS
        return {
            key: [tokens[start : start + BLOCK_TOKENS] for start in range(0, length, BLOCK_TOKENS)]
            for key, tokens in joined.items()
        }

    tokenized = raw.map(tokenize, batched=True, num_proc=processes, remove_columns=["text"])
    blocks = tokenized.map(group_texts, batched=True, num_proc=processes)
    return int(len(blocks) * BLOCK_TOKENS)


def prior_art_loss(corpus: Any, tokenizer: Any, folder: Path) -> int:
    """Tokens that the prior art's truncation and dropped remainders lose on this corpus."""
    from trialese.corpus.blocks import read_facts
    from trialese.corpus.packing import pack_blocks
    from trialese.corpus.store import read_documents
    from trialese.settings import BlockSettings

    settings = BlockSettings(
        block_tokens=BLOCK_TOKENS, truncate_tokens=2109, drop_remainder_documents=16
    )
    out = folder / "prior-art"
    pack_blocks(read_documents(corpus), tokenizer.backend_tokenizer, settings, out)
    counts = read_facts(out).counts
    return counts["truncated_tokens"] + counts["dropped_tokens"]


if __name__ == "__main__":
    main()
