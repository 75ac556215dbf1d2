""""""

from __future__ import annotations

from collections.abc import Callable

import pytest
from huggingface_hub import ModelCard

from trialese.errors import RecordError
from trialese.records import ATTRIBUTION, Predictions
from trialese.settings import VerdictSettings
from trialese.verdict.card import (
    attribution_of,
    format_data_card,
    format_model_card,
    list_facts,
)
from trialese.verdict.judge import judge


def test_source_comes_first_and_nested_counts_keep_their_names() -> None:
    context = {
        "corpus": {"drops": {"too_short": 1234}, "new_from": None},
        "recipe": {"name": "shown elsewhere"},
        "data_timestamp": "2024-09-24",
        "source": "files",
        "synthetic": False,
        "paths": ["a.zip", "b.zip"],
        "new_head": True,
        "fits": [{"loss": 1.0}, {"loss": 2.0}],
        "ids": list(range(20)),
        "dropped": [],
    }
    assert list(list_facts(context)) == [
        ("synthetic", "no"),
        ("source", "files"),
        ("data timestamp", "2024-09-24"),
        ("corpus, drops, too short", "1,234"),
        ("corpus, new from", "not known"),
        ("paths", "a.zip, b.zip"),
        ("new head", "True"),
        ("fits", "2 (in verdict.json)"),
        ("ids", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 8 more"),
        ("dropped", "none"),
    ]


def test_nothing_known_is_said() -> None:
    assert "not given" in dict(list_facts({}))["source"]


def test_only_real_text_is_attributed() -> None:
    assert attribution_of({"source": "files"}) == ATTRIBUTION
    assert attribution_of({"synthetic": True}) == ""
    assert attribution_of({"attribution": "somebody else"}) == "somebody else"


Runs = dict[str, list[Predictions]]
QUICK = VerdictSettings(resamples=100)
CONTEXT = {
    "source": "files",
    "recipe": {"pretrain": {"backbone": {"name": "some/bert"}}},
    "snapshot": {"trials": 1234},
}


def test_hub_reads_the_model_index(runs: Runs) -> None:
    verdict = judge(runs, QUICK)
    card = ModelCard(format_model_card(verdict, "adapted", context=CONTEXT))
    assert card.data.model_name == "trialese-stop-reasons-adapted"
    assert card.data.base_model == "some/bert"
    assert card.data.tags == ["trialese", "clinical-trials", "stop-reasons"]
    results = card.data.eval_results
    assert [result.metric_name for result in results] == [
        "micro-F1", "macro-F1", "weighted F1", "samples F1"
    ]  # fmt: skip
    macro = verdict.scores[0].averages["macro"].f1
    assert results[1].metric_value == macro.point
    assert f"[{macro.low:.4f}, {macro.high:.4f}]" in results[1].metric_config
    assert results[1].dataset_split == "test"


def test_text_has_scores_rivals_audits_data_and_limits(runs: Runs) -> None:
    verdict = judge(runs, QUICK)
    text = ModelCard(format_model_card(verdict, "base", context=CONTEXT)).text
    assert verdict.signature in text
    label = verdict.scores[1].labels[0]
    assert f"| {label.label} | {label.precision:.4f} | {label.recall:.4f} |" in text
    found = next(d for d in verdict.differences if d.system == "base")
    assert f"against {found.rival}: {found.interval.point:+.4f}" in text
    assert all(audit.finding in text for audit in verdict.audits)
    assert "snapshot, trials: 1,234" in text
    assert "National Library of Medicine" in text
    assert "not for care" in text


def test_synthetic_models_say_so_and_local_backbones_are_not_hub_ids(runs: Runs) -> None:
    context = {"synthetic": True, "recipe": {"pretrain": {"backbone": {"name": "./models/bert"}}}}
    text = format_model_card(judge(runs, QUICK), "adapted", context=context)
    card = ModelCard(text)
    assert card.data.base_model is None
    assert "Trained on synthetic trials" in card.text
    assert "National Library" not in card.text


def test_unknown_system(runs: Runs) -> None:
    with pytest.raises(RecordError, match="no scores of gpt; the verdict has adapted, base, tfidf"):
        format_model_card(judge(runs, QUICK), "gpt")


def test_data_card(made: Callable[..., Runs]) -> None:
    verdicts = [judge(made(), QUICK), judge(made(task="x", labels=("a|b", "c")), QUICK)]
    text = format_data_card(verdicts, CONTEXT)
    assert "| snapshot, trials | 1,234 |" in text
    support = verdicts[0].scores[0].labels[2].support
    assert f"| Covid19 | {support} |" in text
    assert "| a\\|b | " in text
    assert "clusters hold texts with different labels" in text
    assert "**Synthetic data" in format_data_card(verdicts, {"synthetic": True})
