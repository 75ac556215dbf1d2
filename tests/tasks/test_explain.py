from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.pretrain.conftest import FAMILIES, save_family
from trialese.errors import RecordError
from trialese.records import Task
from trialese.tasks.classifier import Classifier, Preprocessing, load_masked_lm
from trialese.tasks.explain import explain

TEXT = "trial 7  stopped: slow accrual and\nlack of funding"


def log_odds(classifier: Classifier, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = classifier.model(input_ids=torch.tensor([ids])).logits[0].numpy()
    return logits


def test_weights_add_up_to_what_the_words_did_to_the_log_odds(toy_classifier: Classifier) -> None:
    (ids,) = toy_classifier.encode([toy_classifier.preprocessing.clean(TEXT)])
    hidden = [ids[0], *[toy_classifier.tokenizer.mask_token_id] * (len(ids) - 2), ids[-1]]
    moved = log_odds(toy_classifier, ids) - log_odds(toy_classifier, hidden)
    for column, label in enumerate(toy_classifier.task.labels):
        found = explain(toy_classifier, TEXT, label)
        assert sum(span.weight for span in found.spans) == pytest.approx(moved[column], rel=0.03)
        assert found.probability == toy_classifier.predict_proba([TEXT])[0][column]


def test_spans_are_the_words_of_the_text_as_read(toy_classifier: Classifier) -> None:
    found = explain(toy_classifier, TEXT)
    assert found.text == toy_classifier.preprocessing.clean(TEXT)
    assert [found.text[span.start : span.end] for span in found.spans] == found.text.split()
    scores = toy_classifier.predict_proba([TEXT])[0]
    assert found.label == toy_classifier.task.labels[scores.argmax()]


def test_the_words_that_the_label_was_learnt_from_weigh_most(toy_classifier: Classifier) -> None:
    text = "trial 5 stopped: interim futility"
    found = explain(toy_classifier, text, "Science")
    assert found.probability > 0.5
    best = max(found.spans, key=lambda span: span.weight)
    assert text[best.start : best.end] in {"interim", "futility"}


def test_of_a_long_text_only_what_is_read_is_explained(toy_classifier: Classifier) -> None:
    found = explain(toy_classifier, "slow accrual " * 40)
    assert len(found.spans) == toy_classifier.preprocessing.max_tokens - 2


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_kind_of_tokenizer_gives_each_word_its_own_tokens(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("toy", ("a", "b"), "multilabel")
    model, tokenizer, _ = load_masked_lm(task, save_family(tmp_path / family, family))
    plain = Preprocessing(max_tokens=60, cleaning="none")
    classifier = Classifier(task, model.eval(), tokenizer, plain)
    text = " Café-based  trial \n12 mg/day; naïve women"
    (ids,) = classifier.encode([text])
    hidden = [ids[0], *[tokenizer.mask_token_id] * (len(ids) - 2), ids[-1]]
    moved = log_odds(classifier, ids) - log_odds(classifier, hidden)
    found = explain(classifier, text, "b", steps=64)
    assert [text[span.start : span.end] for span in found.spans] == text.split()
    assert sum(span.weight for span in found.spans) == pytest.approx(moved[1], rel=0.05, abs=2e-5)
    # each word weighs what its own tokens do: counted, where every token weighs 1
    monkeypatch.setattr(
        "trialese.tasks.explain._integrated_gradients", lambda _, ids, *__: np.ones(len(ids))
    )
    counts = [span.weight for span in explain(classifier, text, "b").spans]
    pieces = re.findall(r"\s*\S+", text)
    assert counts == [len(tokenizer(piece)["input_ids"]) - 2 for piece in pieces]


def test_without_a_mask_token_words_are_hidden_by_the_unknown_one(tmp_path: Path) -> None:
    task = Task("toy", ("a", "b"), "multilabel")
    model, tokenizer, _ = load_masked_lm(task, save_family(tmp_path / "bert", "bert"))
    tokenizer.mask_token = None
    found = explain(Classifier(task, model.eval(), tokenizer, Preprocessing(max_tokens=9)), "women")
    assert len(found.spans) == 1


def test_what_cannot_be_explained_is_refused(toy_classifier: Classifier) -> None:
    with pytest.raises(RecordError, match="the text is empty"):
        explain(toy_classifier, " \n ")
    with pytest.raises(RecordError, match="'Moon' is unknown; use one of Enrollment, "):
        explain(toy_classifier, "x", "Moon")
    with pytest.raises(RecordError, match="an exported classifier cannot be explained"):
        explain(SimpleNamespace(), "x")  # type: ignore[arg-type]
