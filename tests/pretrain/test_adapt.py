"""The two stages, end to end on a toy, as other libraries read their folders."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from peft import AutoPeftModel, PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from trialese.artifacts import read_manifest, verify_files, work_folder
from trialese.corpus.blocks import open_blocks
from trialese.errors import ArtifactError, RecipeError
from trialese.pretrain.adapt import build_base, train_adapter, train_control
from trialese.pretrain.heldout import compare_models, read_rows
from trialese.settings import LoraSettings, PhaseSettings

IDS = torch.randint(5, 140, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def built(headless_backbone, toy_blocks, toy_settings, tmp_path_factory) -> Path:
    """Base and adapter of a backbone without a head."""
    home = tmp_path_factory.mktemp("run")
    settings = toy_settings(headless_backbone)
    build_base(toy_blocks, settings, home / "base")
    train_adapter(toy_blocks, home / "base", settings, home / "adapter")
    return home


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_peft_and_transformers_load_the_folders(built: Path):
    base = AutoModelForMaskedLM.from_pretrained(built / "base" / "model").eval()
    merged = AutoModelForMaskedLM.from_pretrained(built / "adapter" / "model").eval()
    before = base(IDS).logits.detach()
    adapted = PeftModel.from_pretrained(base, built / "adapter" / "adapter").eval()
    torch.testing.assert_close(adapted(IDS).logits, merged(IDS).logits, atol=1e-4, rtol=0)
    assert (merged(IDS).logits - before).abs().max() > 1e-2
    for folder in ("base/model", "adapter/model", "adapter/adapter"):
        tokenizer = AutoTokenizer.from_pretrained(built / folder)
        assert tokenizer("a study").input_ids[1:-1] == [5, 6]
    pickled = [f for f in built.rglob("*") if f.suffix in {".bin", ".pt", ".pkl"}]
    assert not pickled


def test_rows_say_what_was_measured_and_that_the_head_is_new(built: Path):
    base, adapter = (read_rows(built / name / "metrics.jsonl") for name in ("base", "adapter"))
    assert all(row["new_head"] for row in base + adapter)
    assert [row["phase"] for row in base] == sorted((r["phase"] for r in base), reverse=True)
    held = [(r["step"], r["era"], r["split"]) for r in adapter if r["split"] != "train"]
    both = ("new", "old")
    assert held == [
        *((0, era, "test") for era in both),
        *((step, era, "tune") for step in (0, 4, 8) for era in both),
        *((8, era, "test") for era in both),
    ]
    last = {(r["era"], r["split"]): r for r in base if r["phase"] == "base"}
    first = {(r["era"], r["split"]): r for r in reversed(adapter) if r["step"] == 0}
    for place in (("new", "test"), ("old", "test"), ("new", "tune")):
        assert first[place]["loss"] == pytest.approx(last[place]["loss"], abs=1e-5)
    row = adapter[0]
    assert row["perplexity"] == pytest.approx(2.718281828 ** row["loss"], rel=1e-6)
    assert 0 <= row["top1"] <= row["top5"] <= 1
    notes = read_manifest(built / "adapter").notes
    ends = [r["mask_top1"] for r in adapter if (r["era"], r["split"]) == ("new", "test")]
    gain = notes["top1_gain"]["new-test"]
    assert gain["point"] == pytest.approx(ends[-1] - ends[0])
    assert gain["low"] <= gain["point"] <= gain["high"]
    assert notes["new_head"] and notes["head_trained"] and "no masked-LM head" in notes["head"]


def test_a_control_trains_as_long_on_old_text_and_differs_in_that_alone(
    built: Path, toy_blocks: Path, headless_backbone, toy_settings, tmp_path: Path
):
    settings = toy_settings(headless_backbone)
    control = train_control(toy_blocks, built / "base", settings, tmp_path / "control")
    adapter = read_manifest(built / "adapter")
    assert control.manifest.notes["control"] and "control" not in adapter.notes
    assert control.manifest.counts["steps"]["control"] == adapter.counts["steps"]["adapt"]
    old = open_blocks(toy_blocks, era="old", split="train")
    assert old is not None and control.manifest.notes["training_blocks"] == old.digest
    rates = [
        [row["lr"] for row in read_rows(folder / "metrics.jsonl") if "lr" in row]
        for folder in (built / "adapter", tmp_path / "control")
    ]
    assert rates[0] == rates[1]
    found = compare_models(built / "adapter", tmp_path / "control")
    assert list(found) == ["new", "old"]
    for era in found.values():
        assert era["documents"] > 5 and era["masked_tokens"] > 0
        top1 = {pair: each["point"] for pair, each in era["top1"].items()}
        gap = top1["adapted - base"] - top1["control - base"]
        assert top1["adapted - control"] == pytest.approx(gap)
        accuracy = era["accuracy"]
        assert top1["adapted - base"] == pytest.approx(accuracy["adapted"] - accuracy["base"])
        assert all(low["low"] <= low["point"] <= low["high"] for low in era["loss"].values())
    # the adapter reads new text better than the control, and gains less or nothing on old text
    gained = {name: era["loss"]["adapted - control"]["point"] for name, era in found.items()}
    assert gained["new"] < 0 and gained["new"] < gained["old"]
    alone = compare_models(built / "adapter", None)
    assert set(alone["new"]["top1"]) == {"adapted - base"}
    for file in (built / "adapter" / "heldout").glob("*-test-*.safetensors"):
        assert file.stat().st_size > 0
    assert compare_models(built / "base", None) == {}  # an artifact without these figures


def test_a_control_needs_old_text(tiny_backbone, write_blocks, toy_settings, tmp_path):
    blocks = write_blocks(tmp_path / "blocks", tiny_backbone, old=False)
    settings = toy_settings(tiny_backbone)
    build_base(blocks, settings, tmp_path / "base")
    with pytest.raises(RecipeError, match=r"no old trials.*pretrain\.control=false"):
        train_control(blocks, tmp_path / "base", settings, tmp_path / "control")
    assert not (tmp_path / "control").exists()


def test_every_file_is_there_and_the_work_folder_is_gone(built: Path, toy_blocks: Path):
    for name in ("base", "adapter"):
        verify_files(built / name)
        assert not work_folder(built / name).exists()
        files = set(read_manifest(built / name).files)
        assert {"metrics.jsonl", "curve.svg", "curve.png"} <= files
        assert any(file.startswith("tensorboard/events.out.tfevents") for file in files)
    masks = load_file(built / "adapter" / "heldout" / "new-tune.safetensors")
    blocks = open_blocks(toy_blocks, era="new", split="tune")
    assert blocks is not None
    rows, columns = (masks["targets"] >= 0).nonzero()
    there = blocks.ids[masks["rows"][rows], masks["positions"][rows, columns]]
    assert (there == masks["targets"][rows, columns]).all()


def test_equal_runs_give_equal_bytes(built, headless_backbone, toy_blocks, toy_settings, tmp_path):
    settings = toy_settings(headless_backbone)
    base = build_base(toy_blocks, settings, tmp_path / "base")
    adapter = train_adapter(toy_blocks, tmp_path / "base", settings, tmp_path / "adapter")
    assert base.manifest.digest == read_manifest(built / "base").digest
    again, before = adapter.manifest, read_manifest(built / "adapter")
    assert again.key == before.key
    config = "adapter/adapter_config.json"  # names its base, which stands elsewhere now
    assert {name for name in again.files if again.files[name] != before.files[name]} == {config}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_names_a_base_that_peft_can_load(built, tiny_backbone, toy_blocks, toy_settings,
                                                    tmp_path):  # fmt: skip
    merged = AutoModelForMaskedLM.from_pretrained(built / "adapter" / "model")
    model = AutoPeftModel.from_pretrained(built / "adapter" / "adapter")
    with torch.no_grad():
        expected = merged(IDS).logits
        torch.testing.assert_close(model(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    settings = toy_settings(tiny_backbone)
    build_base(toy_blocks, settings, tmp_path / "base")
    train_adapter(toy_blocks, tmp_path / "base", settings, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_backbone)


def test_a_stopped_stage_goes_on_and_ends_in_the_same_bytes(
    built, headless_backbone, toy_blocks, toy_settings, tmp_path
):
    class KilledError(Exception):
        pass

    def kill(what: str, done: int, total: int | None) -> None:
        if "base" in what and done == 5:
            raise KilledError

    settings = toy_settings(headless_backbone)
    with pytest.raises(KilledError):
        build_base(toy_blocks, settings, tmp_path / "base", progress=kill)
    assert not (tmp_path / "base").exists()
    assert (work_folder(tmp_path / "base") / "head.safetensors").is_file()
    heard: list[tuple[str, int]] = []
    base = build_base(
        toy_blocks, settings, tmp_path / "base", progress=lambda w, d, t: heard.append((w, d))
    )
    assert heard[0] == ("pretrain: base steps", 4)  # after the checkpoint of step 3
    assert base.manifest.digest == read_manifest(built / "base").digest


def test_a_backbone_with_a_head_is_its_own_base(tiny_backbone, toy_blocks, toy_settings, tmp_path):
    settings = toy_settings(tiny_backbone)
    base = build_base(toy_blocks, settings, tmp_path / "base")
    ours = AutoModelForMaskedLM.from_pretrained(tmp_path / "base" / "model")
    theirs = AutoModelForMaskedLM.from_pretrained(tiny_backbone)
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, atol=0, rtol=0)
    rows = read_rows(tmp_path / "base" / "metrics.jsonl")
    assert {(row["split"], row["step"]) for row in rows} == {("tune", 0), ("test", 0)}
    assert not base.manifest.notes["adapted_to_old"]
    adapter = train_adapter(toy_blocks, tmp_path / "base", settings, tmp_path / "adapter")
    assert not adapter.manifest.notes["head_trained"]
    config = json.loads((tmp_path / "adapter/adapter/adapter_config.json").read_text())
    assert config["modules_to_save"] is None


def test_all_weights_as_a_method(tiny_backbone, toy_blocks, toy_settings, tmp_path):
    phase = PhaseSettings(steps=12, batch_blocks=8, lr=3e-3)
    settings = toy_settings(tiny_backbone, method="full", base="always", base_phase=phase)
    build_base(toy_blocks, settings, tmp_path / "base")
    adapter = train_adapter(toy_blocks, tmp_path / "base", settings, tmp_path / "adapter")
    assert not (adapter.path / "adapter").exists()
    rows = read_rows(tmp_path / "base" / "metrics.jsonl")
    old = [r["loss"] for r in rows if (r["era"], r["split"]) == ("old", "test")]
    assert old[-1] < old[0] - 0.5


def test_changed_settings_and_data_are_refused_and_the_old_ones_go_on(
    tiny_backbone, toy_blocks, toy_settings, write_blocks, tmp_path
):
    class KilledError(Exception):
        pass

    def kill(what: str, done: int, total: int | None) -> None:
        if done == 5:
            raise KilledError

    settings = toy_settings(tiny_backbone)
    build_base(toy_blocks, settings, tmp_path / "base")
    with pytest.raises(KilledError):
        train_adapter(
            toy_blocks,
            tmp_path / "base",
            toy_settings(tiny_backbone),
            tmp_path / "a",
            progress=kill,
        )
    base, heard = tmp_path / "base", list[int]()
    with pytest.raises(ArtifactError, match=r"seed: 7 -> 8.* delete the folder"):
        train_adapter(toy_blocks, base, toy_settings(tiny_backbone, seed=8), tmp_path / "a")
    other = write_blocks(tmp_path / "other", tiny_backbone, old=False)
    with pytest.raises(ArtifactError, match=r"inputs\.blocks: .* -> "):
        train_adapter(other, base, settings, tmp_path / "a")
    train_adapter(
        toy_blocks, base, settings, tmp_path / "a", progress=lambda w, d, t: heard.append(d)
    )
    assert heard[0] == 4  # after the checkpoint of step 3


def test_what_cannot_be_done_is_said_in_one_line(
    headless_backbone, tiny_backbone, toy_blocks, toy_settings, write_blocks, tmp_path
):
    def fails(error: type[Exception], words: str, **changes: object) -> None:
        with pytest.raises(error, match=words) as caught:
            build_base(
                changes.pop("blocks", toy_blocks),  # type: ignore[arg-type]
                toy_settings(changes.pop("backbone", headless_backbone), **changes),
                tmp_path / "base",
            )
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "base").exists()

    fails(RecipeError, "base: never, but .* no masked-LM head", base="never")
    fails(ArtifactError, "made with another tokenizer", backbone="minilm")
    fails(RecipeError, "sees no GPU", device="cuda")
    only_new = write_blocks(tmp_path / "only-new", tiny_backbone, old=False)
    long = write_blocks(tmp_path / "long", tiny_backbone, block_tokens=80)
    fails(RecipeError, "80 tokens, but the backbone has 64 positions", blocks=long)
    fails(RecipeError, "adapted to old trials, but there are none", blocks=only_new)
    with pytest.raises(ArtifactError, match="no such folder"):
        train_adapter(
            toy_blocks, tmp_path / "nowhere", toy_settings(tiny_backbone), tmp_path / "adapter"
        )


def test_a_finished_adapter_goes_on(built, headless_backbone, toy_blocks, toy_settings, tmp_path):
    settings = toy_settings(headless_backbone, seed=9)
    again = train_adapter(toy_blocks, built / "adapter", settings, tmp_path / "again")
    assert again.manifest.inputs["base"] == read_manifest(built / "adapter").digest
    first = read_rows(tmp_path / "again" / "metrics.jsonl")[0]
    last = [r for r in read_rows(built / "adapter" / "metrics.jsonl") if r["step"] == 8]
    assert first["loss"] == pytest.approx(
        next(r for r in last if (r["era"], r["split"]) == ("new", "test"))["loss"], abs=1e-4
    )
    with pytest.raises(ArtifactError, match="this is a blocks; a model or an adapter"):
        train_adapter(toy_blocks, toy_blocks, settings, tmp_path / "other")


def test_a_newer_corpus_goes_on_from_before_the_decay(
    tiny_backbone, toy_blocks, toy_settings, tmp_path
):
    class KilledError(Exception):
        pass

    def kill(what: str, done: int, total: int | None) -> None:
        if done == 7:
            raise KilledError

    wsd = PhaseSettings(steps=8, batch_blocks=8, lr=1e-2, schedule="wsd", decay_share=0.5)
    settings = toy_settings(tiny_backbone, adapt_phase=wsd)
    build_base(toy_blocks, settings, tmp_path / "base")
    first = tmp_path / "first"
    with pytest.raises(KilledError):  # the stable weights outlive a kill after them
        train_adapter(toy_blocks, tmp_path / "base", settings, first, progress=kill)
    train_adapter(toy_blocks, tmp_path / "base", settings, first)
    verify_files(first)
    # the schedule is flat up to the decay, so four constant steps end where it began
    flat = msgspec.structs.replace(wsd, steps=4, schedule="constant", warmup_share=0.0)
    flat_settings = toy_settings(tiny_backbone, adapt_phase=flat)
    train_adapter(toy_blocks, tmp_path / "base", flat_settings, tmp_path / "flat")
    stable, expected, ended = (
        AutoModelForMaskedLM.from_pretrained(folder)(IDS).logits
        for folder in (first / "stable/model", tmp_path / "flat/model", first / "model")
    )
    assert torch.equal(stable, expected) and not torch.equal(stable, ended)
    again = train_adapter(toy_blocks, first, settings, tmp_path / "again")
    assert again.manifest.notes["went_on_from"] == "stable/model"
    assert not (tmp_path / "flat" / "stable").exists()


SIGKILL_SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import msgspec, torch
from trialese.pretrain.adapt import train_adapter
from trialese.settings import PretrainSettings

torch.set_num_threads(1)
blocks, base, home = map(Path, sys.argv[1:4])

def run(settings, folder, step=None, seconds=0.0):
    reading, writing = os.pipe()
    child = os.fork()  # torch is imported once for all runs
    if child == 0:
        tell = lambda what, done, total: os.write(writing, b"%d\\n" % done)
        train_adapter(blocks, base, settings, folder, progress=tell)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        for line in lines:
            if step is not None and int(line) >= step:
                time.sleep(seconds)
                os.kill(child, signal.SIGKILL)
                break
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for number, (settings, moments) in enumerate(
    msgspec.json.decode(sys.argv[4], type=list[tuple[PretrainSettings, list[tuple[int, float]]]])
):
    assert run(settings, home / f"whole-{number}") == 0
    for step, seconds in moments:
        assert run(settings, home / f"killed-{number}", step, seconds) == -signal.SIGKILL
    assert run(settings, home / f"killed-{number}") == 0
"""


@pytest.mark.slow
def test_sigkill_at_random_moments_and_the_same_command_again_end_in_the_same_bytes(
    built, headless_backbone, toy_blocks, toy_settings, tmp_path
):
    chance = random.Random()
    cases = []
    for accumulation, changes in (
        (1, {"data_workers": 3}),
        (1, {"backbone_dropout": 0.1, "lora": LoraSettings(rank=4, alpha=8, dropout=0.1)}),
        (2, {"backbone_dropout": 0.1, "data_workers": 2}),
        (2, {"method": "full"}),
    ):
        phase = PhaseSettings(steps=20, batch_blocks=4, lr=1e-2, accumulation=accumulation)
        settings = toy_settings(headless_backbone, adapt_phase=phase, **changes)
        moments = [(chance.randint(1, 18), chance.uniform(0, 0.03)) for _ in range(2)]
        cases.append((settings, moments))
    told = msgspec.json.encode(cases).decode()
    command = [sys.executable, "-c", SIGKILL_SCRIPT, toy_blocks, built / "base", tmp_path, told]
    done = subprocess.run(command, check=False, timeout=280, capture_output=True, text=True)
    assert done.returncode == 0, (done.stderr, cases)
    for number, case in enumerate(cases):
        whole, killed = (read_manifest(tmp_path / f"{n}-{number}") for n in ("whole", "killed"))
        assert whole.digest == killed.digest, case
