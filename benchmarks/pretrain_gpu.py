"""The table of a GPU: tokens/s, share of its matrix rate, and hours for two whole corpora.

Runs `pretrain_speed.py` for BERT-base at 128 and 512 tokens, and turns the best of ours into the
time that 4.2 billion tokens (the prior art's 50 epochs) and 2.1 billion (the whole registry once)
would take. Under eight minutes on one H200-class GPU.

    python benchmarks/pretrain_gpu.py --json gpu.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = (
    # block tokens, blocks a step, rank, variants
    (128, 16, 1, "A stock fp32,B stock bf16,ours"),
    (128, 256, 1, "A stock fp32,B stock bf16,ours,ours compiled"),
    (512, 64, 1, "A stock fp32,B stock bf16,ours,ours compiled"),
    (512, 64, 16, "B stock bf16,ours,ours compiled"),
)
CORPORA = {
    "4.2 billion tokens (50 epochs of the prior art)": 4.2e9,
    "2.1 billion (registry)": 2.1e9,
}


def main() -> None:
    """Run every line of the table; a line that fails is reported and the rest go on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", default="bert-base")
    arguments = parser.parse_args()
    script = Path(__file__).with_name("pretrain_speed.py")
    results = []
    for block_tokens, batch_blocks, rank, variants in RUNS:
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            command = [
                sys.executable, str(script), "--device", arguments.device, "--shape",
                arguments.shape, "--block-tokens", str(block_tokens), "--batch-blocks",
                str(batch_blocks), "--rank", str(rank), "--variants", variants, "--rounds", "3",
                "--steps", "10", "--json", file.name,
            ]  # fmt: skip
            done = subprocess.run(command, check=False, timeout=240)
            if done.returncode == 0:
                results.append(json.loads(Path(file.name).read_text()))
            else:
                print(f"failed: {' '.join(command[2:])}", flush=True)
    for result in results:
        told = result["arguments"]
        best = max((r for r in result["rows"] if r["variant"].startswith("ours")),
                   key=lambda row: row["tokens_per_second"])  # fmt: skip
        print(f"\n{told['batch_blocks']} x {told['block_tokens']}, rank {told['rank']}: "
              f"{best['variant']} {best['tokens_per_second'] / 1e3:.0f} thousand tokens/s, "
              f"{best['share_of_matrix_rate']:.0%} of the matrix rate")  # fmt: skip
        for name, tokens in CORPORA.items():
            print(f"  {name}: {tokens / best['tokens_per_second'] / 3600:.2f} h")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
