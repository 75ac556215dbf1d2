from __future__ import annotations

from pathlib import Path

import pytest

from trialese.records import Audit, Example, Task, Thresholds
from trialese.settings import FinetuneSettings
from trialese.tasks.fit import fit_classifier
from trialese.tasks.opentargets import check_dropin, preset_labels
from trialese.tasks.scorer import OPEN_TARGETS_PRESET, read_description
from trialese.tasks.stop_reasons import STOP_REASONS

FITTING = FinetuneSettings(epochs=1, max_tokens=64, precision="fp32")


def saved(task: Task, backbone: Path, path: Path) -> Path:
    rows = [Example(str(i), f"slow accrual {i}", task.labels[:1]) for i in range(6)]
    classifier = fit_classifier(task, rows, rows, backbone, FITTING, seed=1)[0]
    count = len(task.labels)
    classifier.thresholds = Thresholds(labels=task.labels, values=(0.4,) * count, chosen_on="tune")
    classifier.preset = OPEN_TARGETS_PRESET if task is STOP_REASONS else None
    classifier.save_pretrained(path)
    return path


def failed(audits: list[Audit]) -> list[str]:
    return [audit.name for audit in audits if not audit.passed]


def test_a_stop_reason_classifier_drops_in(tiny_backbone: Path, tmp_path: Path) -> None:
    audits = check_dropin(saved(STOP_REASONS, tiny_backbone, tmp_path / "model"))
    assert failed(audits) == [] and len(audits) == 8
    stored = read_description(tmp_path / "model")
    assert stored.preset == OPEN_TARGETS_PRESET
    assert stored.thresholds is not None and stored.thresholds.values[0] == 0.4


def test_what_differs_is_named(tiny_backbone: Path, tmp_path: Path) -> None:
    task = Task("reasons", ("Success", "Boredom"), "multilabel")
    folder = saved(task, tiny_backbone, tmp_path / "model")
    (folder / "extra.bin").write_bytes(b"pickle")
    audits = {audit.name: audit for audit in check_dropin(folder)}
    assert failed(list(audits.values())) == ["weights", "labels", "thresholds"]
    assert "has besides Boredom" in audits["labels"].finding
    assert "extra.bin" in audits["weights"].finding
    assert "preset: none" in audits["thresholds"].finding
    assert "at most 64 tokens; the stock tokenizer cuts after 64" in audits["preprocessing"].finding


@pytest.mark.parametrize(
    ("chances", "labels"),
    [((0.31, 0.9), ("a", "b")), ((0.3, 0.2), ("Uncategorised",)), ((0.1, 0.4), ("b",))],
)
def test_preset_and_fallback(chances: tuple[float, float], labels: tuple[str, ...]) -> None:
    assert preset_labels(("a", "b"), chances) == labels
