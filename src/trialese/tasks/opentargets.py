"""Check of a classifier folder against Open Targets' own pipeline: does it load as it is?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from trialese.records import Audit
from trialese.tasks.scorer import (
    OPEN_TARGETS_PRESET,
    Description,
    model_folder,
    read_description,
)
from trialese.tasks.stop_reasons import STOP_REASONS

if TYPE_CHECKING:
    from trialese.tasks.classifier import Classifier

__all__ = ["check_dropin", "preset_labels"]


_PROBES = (
    "Low accrual",
    "The sponsor decided to stop the study for business reasons, not for safety or efficacy.",
    "COVID-19 pandemic",
    "Interim analysis: futility (p > 0.5, n ≥ 30)",
    "PI left the institution",
    "terminated",
)


def preset_labels(
    labels: Sequence[str],
    probabilities: Sequence[float],
    *,
    cut: float = OPEN_TARGETS_PRESET.cut,
) -> tuple[str, ...]:
    """The labels above `cut`, in their order, or ("Uncategorised",) where none is."""
    given = tuple(
        label for label, chance in zip(labels, probabilities, strict=True) if chance > cut
    )
    return given or (OPEN_TARGETS_PRESET.fallback,)


def check_dropin(path: Path, *, texts: Sequence[str] = _PROBES) -> list[Audit]:
    """What was checked of the classifier at `path`, one `Audit` a check.

    Stock transformers classes load the folder, weights are safetensors alone, labels are Open
    Targets' 17 names, and the stock text-classification pipeline gives the probabilities, and the
    labels at their preset, that trialese gives. One that is stored as what it adds to a backbone
    is written as a whole folder first, as `Classifier.save_pretrained` does.

    Raises:
        ArtifactError: no classifier at `path`, or a damaged one.
    """
    from trialese.tasks.classifier import Classifier

    ours = Classifier.from_pretrained(path)
    folder = model_folder(path, size="large")
    with ExitStack() as held:
        if not (folder / "config.json").is_file():  # stored as what it adds to its backbone
            folder = Path(held.enter_context(TemporaryDirectory())) / "whole"
            ours.save_pretrained(folder)
        return _check(ours, folder, texts)


def _check(ours: Classifier, folder: Path, texts: Sequence[str]) -> list[Audit]:
    """The audits of a plain Hugging Face folder."""
    import transformers

    from trialese.pretrain.backbone import quiet_transformers

    with quiet_transformers():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        pipeline = transformers.pipeline(
            "text-classification", model=model, tokenizer=tokenizer, device="cpu"
        )
        rows = pipeline(list(texts), top_k=None, function_to_apply="sigmoid", truncation=True)
    weights = sorted(file.name for file in folder.iterdir() if file.suffix in _WEIGHT_SUFFIXES)
    named = tuple(model.config.id2label[place] for place in range(model.config.num_labels))
    theirs = np.array([[{e["label"]: e["score"] for e in row}[n] for n in named] for row in rows])
    mine = ours.predict_proba(texts)
    same_shape = theirs.shape == mine.shape
    gap = float(np.abs(theirs - mine).max()) if same_shape else float("inf")
    differing = [
        text
        for text, their_row, my_row in zip(texts, theirs, mine, strict=True)
        if preset_labels(named, their_row) != preset_labels(ours.task.labels, my_row)
    ]
    return [
        Audit(
            name="class",
            passed=type(model).__name__.endswith("ForSequenceClassification"),
            finding=f"AutoModelForSequenceClassification loads it as {type(model).__name__}",
        ),
        Audit(
            name="weights",
            passed=weights == ["model.safetensors"],
            finding=f"weight files: {', '.join(weights) or 'none'}",
        ),
        Audit(
            name="labels",
            passed=set(named) == set(STOP_REASONS.labels),
            finding=_difference(named),
        ),
        Audit(
            name="problem type",
            passed=model.config.problem_type == "multi_label_classification",
            finding=f"problem_type is {model.config.problem_type}",
        ),
        Audit(
            name="probabilities",
            passed=gap <= 1e-5,
            finding=f"stock pipeline with sigmoid against trialese, {len(texts)} texts: "
            f"largest difference {gap:.1e}",
        ),
        Audit(
            name="preset",
            passed=same_shape and not differing,
            finding=f"labels at {OPEN_TARGETS_PRESET.cut} with the fallback "
            f"{OPEN_TARGETS_PRESET.fallback}: "
            + (f"differ on {differing[0]!r}" if differing else f"equal on {len(texts)} texts"),
        ),
        *_stored(read_description(folder), tokenizer.model_max_length),
    ]


def _stored(found: Description, stock_tokens: int) -> list[Audit]:
    """What stands beside the weights: both kinds of cut-off, and what is done to a text first."""
    cut, how, preset = found.thresholds, found.preprocessing, OPEN_TARGETS_PRESET
    tuned = f"chosen on {cut.chosen_on}" if cut else "none"
    return [
        Audit(
            name="thresholds",
            passed=cut is not None and cut.chosen_on == "tune" and found.preset == preset,
            finding=f"tuned cut-offs: {tuned}; preset: "
            + (f"{preset.cut}, else {preset.fallback}" if found.preset else "none"),
        ),
        Audit(
            name="preprocessing",
            passed=how.max_tokens == stock_tokens,
            finding=f"stored: {how.cleaning} cleaning, at most {how.max_tokens} tokens; the stock "
            f"tokenizer cuts after {stock_tokens}",
        ),
    ]


_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".ckpt", ".msgpack", ".h5")


def _difference(named: Sequence[str]) -> str:
    lacking = sorted(set(STOP_REASONS.labels) - set(named))
    foreign = sorted(set(named) - set(STOP_REASONS.labels))
    if not lacking and not foreign:
        return f"Open Targets' {len(named)} names"
    return f"lacks {', '.join(lacking) or 'none'}; has besides {', '.join(foreign) or 'none'}"
