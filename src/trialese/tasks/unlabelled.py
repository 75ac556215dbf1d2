"""The model that fits begin with where it first reads a task's texts that nobody labelled.

A masked-LM that has read thousands of texts of the task's kind learns more from a few labelled
ones (Gururangan et al. 2020, "Don't stop pretraining", arXiv 2004.10964). Texts equal or nearly
equal to a labelled one, or to a behavioural test, are left out: no tested text has been read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trialese.artifacts import digest_of, write_artifact
from trialese.errors import RecordError
from trialese.hub import locate_labelled, positions_of
from trialese.progress import Progress, silent
from trialese.records import Document, Example
from trialese.settings import (
    BackboneSettings,
    BlockSettings,
    FinetuneSettings,
    PhaseSettings,
    PretrainSettings,
    UnlabelledSettings,
)
from trialese.tasks.behaviour import behaviour_tests, without_near
from trialese.tasks.formats import AskedColumns, read_records, texts_of
from trialese.tasks.task import TaskDefinition

__all__ = ["UnlabelledTexts", "read_as_masked_lm", "unlabelled_texts"]


@dataclass(frozen=True, slots=True)
class UnlabelledTexts:
    """The texts that can be read, clean and each once, and the counts of those left out."""

    texts: tuple[str, ...]
    settings: UnlabelledSettings
    left_out: dict[str, int]

    @property
    def digest(self) -> str:
        """sha256 of every text."""
        return digest_of(list(self.texts))


def unlabelled_texts(
    definition: TaskDefinition, settings: UnlabelledSettings, labelled: Sequence[Example]
) -> UnlabelledTexts:
    """The texts of the table that are near none of `labelled` and no behavioural test.

    Raises:
        RecordError: no such file or column, or no text is left.
    """
    from trialese.corpus.clean import clean_text
    from trialese.corpus.dedup import near_any, normalise

    dedup, left_out = definition.section.dedup, Counter[str]()
    table = locate_labelled(settings.table)
    if not table.exists():
        raise RecordError(f"{table}: no such file; correct the table of `unlabelled`")
    records = list(read_records(table, AskedColumns(text=settings.column)))
    read = texts_of(records, 1, definition.preprocessing, left_out)
    once: dict[str, Example] = {}
    for each in read:
        text = clean_text(each.text)
        once.setdefault(normalise(text), Example(f"unlabelled {each.row}", text, ()))
    left_out["the text of another row"] = len(read) - len(once)
    tests = behaviour_tests(definition.task, definition.section.behaviour_tests)
    far, near_tests = without_near(once.values(), tests, dedup)
    near = near_any([each.text for each in far], [each.text for each in labelled], dedup)
    kept = (e.text for e, is_near in zip(far, near, strict=True) if not is_near)
    texts = tuple(filter(None, kept))
    left_out["near a labelled text"] = len(far) - len(texts)
    left_out["near a behavioural test"] = near_tests
    if not texts:
        raise RecordError(
            f"{settings.table}: every text is near a labelled one; give other texts, or leave "
            "`unlabelled` out"
        )
    return UnlabelledTexts(texts, settings, {reason: n for reason, n in left_out.items() if n})


def read_as_masked_lm(
    model: Path,
    unlabelled: UnlabelledTexts,
    folder: Path,
    *,
    fit: FinetuneSettings,
    progress: Progress = silent,
) -> Path:
    """The folder of the model once it has read the texts with words masked; made in `folder`.

    Texts are read in rows of the fit's `max_tokens` or as many as the model has positions, each by
    itself, and in the fit's precision.

    A head that the checkpoint lacks learns alone for an epoch; then every weight learns. The head
    is no part of what a classifier starts from.

    Raises:
        ArtifactError: no usable model, or the disk refused.
    """
    from trialese.corpus.packing import pack_blocks
    from trialese.pretrain.adapt import build_base
    from trialese.pretrain.backbone import read_tokenizer, tokenizer_digest

    tokenizer, blocks = read_tokenizer(model), folder / "blocks"
    longest = min(fit.max_tokens, positions_of(model) or fit.max_tokens)
    settings = BlockSettings(packing="within", block_tokens=longest)
    inputs = {"texts": unlabelled.digest, "tokenizer": tokenizer_digest(tokenizer)}
    with write_artifact(blocks, kind="blocks", settings={}, inputs=inputs) as draft:
        documents = (Document(str(row), text) for row, text in enumerate(unlabelled.texts))
        pack_blocks(documents, tokenizer.backend_tokenizer, settings, draft.folder / "old-train")
        draft.counts["folders"] = {"old-train": {}}
    phase = PhaseSettings(epochs=unlabelled.settings.epochs, lr=unlabelled.settings.lr)
    how = PretrainSettings(
        backbone=BackboneSettings(name=str(model)),
        method="full",
        base="always",
        precision=fit.precision,
        head_phase=PhaseSettings(epochs=1, lr=PretrainSettings().head_phase.lr),
        base_phase=phase,
    )
    build_base(blocks, how, folder / "read", progress=progress)
    return folder / "read" / "model"
