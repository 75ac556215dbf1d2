"""The panel: probes over a synthetic snapshot with toy encoders, and how it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trialese.collect.collection import collect_snapshot
from trialese.errors import RecordError
from trialese.pipeline.panel import make_panel, read_panel
from trialese.records import Difference, Interval, Snapshot
from trialese.settings import CollectSettings, SampleSettings, VerdictSettings
from trialese.tasks.probes import (
    PROBE_TARGETS,
    ProbeText,
    count_terms,
    encode_states,
    probe_predictions,
    probe_texts,
)
from trialese.verdict.encoders import conclude_pairs, format_panel
from trialese.verdict.judge import judge


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    settings = CollectSettings(sample=SampleSettings(studies=240))
    return collect_snapshot(settings, tmp_path_factory.mktemp("panel") / "snapshot")


def test_no_text_says_what_is_asked_of_it(snapshot: Snapshot) -> None:
    texts = probe_texts(snapshot, most_trials=100)
    assert len(texts) == 100 and [t.nct_id for t in texts] == sorted(t.nct_id for t in texts)
    assert all("Sex:" not in text.text and "Gender:" not in text.text for text in texts)
    answered = {name for text in texts for name in text.labels}
    assert {"sex", "phase", "stopped or completed"} <= answered <= {t.name for t in PROBE_TARGETS}


def test_states_do_not_depend_on_the_batch(tiny_backbone: Path) -> None:
    texts = ["a study of the drug", "women with breast cancer placebo dose safety efficacy trial"]
    together, counts = encode_states(tiny_backbone, texts, precision="fp32")
    alone = np.concatenate(
        [encode_states(tiny_backbone, [text], precision="fp32")[0] for text in texts]
    )
    assert together == pytest.approx(alone, abs=1e-5) and together.shape == (2, 32)
    assert sum(counts[0].values()) == 7  # five words between [CLS] and [SEP]


def test_a_probe_reads_what_the_states_hold_and_nothing_from_noise(snapshot: Snapshot) -> None:
    texts = probe_texts(snapshot)
    target = next(t for t in PROBE_TARGETS if t.name == "sex")
    random = np.random.default_rng(0)
    noise = random.normal(size=(len(texts), 8)).astype(np.float32)
    told = noise.copy()
    told[:, 0] = [{"Female": 5, "Male": -5}.get(text.labels.get("sex", ""), 0) for text in texts]
    terms = count_terms([text.text for text in texts], [{1: 1}] * len(texts))  # type: ignore[list-item]
    runs = probe_predictions(target, texts, {"told": told, "noise": noise}, terms, folds=3)
    assert set(runs) == {"told", "noise", "subwords", "tfidf", "prior"}
    labelled = [text.nct_id for text in texts if "sex" in text.labels]
    right = {}
    for system, given in runs.items():
        tested = [run for run in given if run.split == "test"]
        assert sorted(name for run in tested for name in run.ids) == labelled
        for run in tested:
            assert not run.trained_on & set(run.clusters)
        right[system] = np.mean(
            [(run.scores.argmax(1) == run.truth.argmax(1)).mean() for run in tested]
        )
    assert right["told"] > 0.95 > right["noise"]


def test_states_are_those_of_the_model_itself(tiny_backbone: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["a study of the drug", "women with breast cancer placebo dose safety efficacy trial"]
    model, tokenizer = (kind.from_pretrained(tiny_backbone) for kind in (AutoModel, AutoTokenizer))
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        last = model.eval()(**encoded).last_hidden_state
    share = encoded["attention_mask"][..., None] / encoded["attention_mask"].sum(1)[:, None, None]
    plain = (last * share).sum(1).numpy()
    exact, _ = encode_states(tiny_backbone, texts, precision="fp32")
    assert exact == pytest.approx(plain, abs=1e-5)
    rounded, _ = encode_states(tiny_backbone, texts, precision="bf16")
    assert rounded == pytest.approx(plain, abs=0.05) and rounded.dtype == np.float32


def test_a_word_that_tells_the_label_is_found_by_the_words(snapshot: Snapshot) -> None:
    """The rival is not starved: words of unit length want a weaker penalty than states."""
    texts = [replace(text, text=f"{text.text} {_marked(text)}") for text in probe_texts(snapshot)]
    target = next(t for t in PROBE_TARGETS if t.name == "sex")
    terms = count_terms([text.text for text in texts], [{1: 1}] * len(texts))  # type: ignore[list-item]
    runs = probe_predictions(target, texts, {}, terms, folds=3)["tfidf"]
    tested = [run for run in runs if run.split == "test"]
    female = tested[0].labels.index("Female")
    found = sum(((run.scores.argmax(1) == female) & run.truth[:, female]).sum() for run in tested)
    assert found > 0.8 * sum(run.truth[:, female].sum() for run in tested)  # 0.70 before


def _marked(text: ProbeText) -> str:
    return "xylem xylem xylem" if text.labels.get("sex") == "Female" else ""


def test_the_panel_is_a_table_a_picture_and_json(
    snapshot: Snapshot, tiny_backbone: Path, tmp_path: Path
) -> None:
    settings = VerdictSettings(resamples=200)
    models = {"adapted": tiny_backbone, "base": tiny_backbone}
    manifest = make_panel(
        snapshot, models, tmp_path / "panel", folds=3, max_tokens=32, settings=settings
    )
    panel = read_panel(tmp_path / "panel")
    assert manifest.counts["targets"] == len(panel.rows) >= 5
    for row in panel.rows:
        assert row.scores["adapted"] == row.scores["base"]
        assert row.scores["prior"].point <= row.scores["tfidf"].high
    same = [d for d in panel.differences if (d.system, d.rival) == ("adapted", "base")]
    assert len(same) == len(panel.rows)
    assert {d.conclusion for d in same} == {"no difference"}
    text = format_panel(panel)
    assert "| sex |" in text and f"adapted against base, {len(panel.rows)} targets" in text
    assert (tmp_path / "panel" / "panel.png").read_bytes().startswith(b"\x89PNG")


def test_p_values_are_one_family_and_adjusted_once() -> None:
    """Each pair and target counts once, from its p-value before the verdict adjusted it."""

    def told(rival: str, raw: float) -> Difference:
        return Difference(
            system="adapted", rival=rival, metric="macro-f1", conclusion="better",
            interval=Interval(0.05, 0.01, 0.09), p_value=min(1.0, 5 * raw), raw_p_value=raw,
        )  # fmt: skip

    compared = [("sex", told("base", 0.01)), ("sex", told("control", 0.02))]
    compared += [("phase", told("base", 0.04)), ("phase", told("control", 0.5))]
    found = conclude_pairs(compared)
    assert [each.p_value for each in found] == pytest.approx([0.04, 0.06, 0.08, 0.5])
    assert [each.conclusion for each in found] == ["better", *["no difference"] * 3]
    widened = conclude_pairs(compared, seed_spread=0.03)  # another training run could undo it
    assert {each.conclusion for each in widened} == {"no difference"}


def test_a_model_cannot_have_the_name_of_a_rival(snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="tfidf: the panel has a system of that name"):
        make_panel(snapshot, {"tfidf": tmp_path}, tmp_path / "panel")


def test_too_little_to_probe_is_said(tmp_path: Path, tiny_backbone: Path) -> None:
    few = collect_snapshot(
        CollectSettings(sample=SampleSettings(studies=20)), tmp_path / "snapshot"
    )
    with pytest.raises(RecordError, match="20 trials with text, too few to probe"):
        make_panel(few, {"base": tiny_backbone}, tmp_path / "panel")
    with pytest.raises(RecordError, match="give the folder of a masked-LM"):
        make_panel(few, {}, tmp_path / "panel")
    assert not (tmp_path / "panel").exists()
    make_panel(few, {"base": tiny_backbone}, tmp_path / "panel", allow_empty=True)
    panel = read_panel(tmp_path / "panel")
    assert not panel.rows and "20 trials with text" in format_panel(panel)


def test_a_target_that_cannot_be_judged_is_left_out_with_its_reason(
    snapshot: Snapshot, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def judge_but_the_first(*given: object) -> object:
        asked.append(given)
        if len(asked) == 1:
            raise RecordError("the test of fold 1 holds only PHASE2")
        return judge(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("trialese.pipeline.panel.judge", judge_but_the_first)
    make_panel(snapshot, {"base": tiny_backbone}, tmp_path / "panel", most_trials=200)
    panel = read_panel(tmp_path / "panel")
    assert len(panel.rows) == len(asked) - 1 > 0
    assert any("the test of fold 1 holds only PHASE2" in why for why in panel.left_out.values())
