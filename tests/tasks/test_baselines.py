"""Baselines, the blend of two systems, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from trialese.cli.main import app
from trialese.errors import RecipeError, RecordError
from trialese.predictions import check_predictions, load_predictions
from trialese.records import Example, Predictions, Task
from trialese.settings import DeclaredTaskSettings, TasksSettings
from trialese.tasks.baselines import fit_baseline
from trialese.tasks.blend import blend_predictions
from trialese.tasks.finetune import finetune
from trialese.tasks.sex import SEX, SEX_WORDS
from trialese.tasks.stop_reasons import STOP_REASON_WORDS, STOP_REASONS
from trialese.tasks.task import encode_labels


def stop_rows() -> list[Example]:
    rows = []
    for row in range(40):
        if row % 2:
            rows.append(
                Example(f"{row}", f"slow accrual at site {row}", ("Insufficient_Enrollment",))
            )
        else:
            rows.append(Example(f"{row}", f"covid outbreak number {row}", ("Covid19",)))
    return rows


def test_prior_gives_the_training_shares() -> None:
    rows = stop_rows()
    predict = fit_baseline("prior", STOP_REASONS, rows, rows)
    scores = predict(["anything", "else"])
    np.testing.assert_allclose(scores, np.tile(encode_labels(STOP_REASONS, rows).mean(0), (2, 1)))


def test_keywords_follow_laplace_within_the_keyword_cell() -> None:
    rows = stop_rows()
    scores = fit_baseline("keywords", STOP_REASONS, rows, rows, keywords=STOP_REASON_WORDS)(
        ["COVID", "nothing here"]
    )
    column = STOP_REASONS.labels.index("Covid19")
    assert scores[0, column] == pytest.approx((20 + 1) / (20 + 2))
    assert scores[1, column] == pytest.approx((0 + 1) / (20 + 2))


def test_keywords_of_one_label_tasks_sum_to_one() -> None:
    rows = [
        Example(f"{i}", text, (label,))
        for i, (text, label) in enumerate(
            [("women with ovarian cancer", "Female"), ("prostate cancer", "Male"), ("gout", "All")]
            * 9
        )
    ]
    scores = fit_baseline("keywords", SEX, rows, rows, keywords=SEX_WORDS)(
        ["pregnant women", "prostate", "asthma"]
    )
    np.testing.assert_allclose(scores.sum(axis=1), 1.0)
    assert [SEX.labels[i] for i in scores.argmax(axis=1)] == ["Female", "Male", "All"]


@pytest.mark.parametrize("task", [STOP_REASONS, SEX])
def test_tfidf_learns_and_never_sees_a_label_without_examples(task: Task) -> None:
    if task is SEX:
        rows = [
            Example(f"{i}", text + f" {i}", (label,))
            for i, (text, label) in enumerate([("men only", "Male"), ("women only", "Female")] * 12)
        ]
    else:
        rows = stop_rows()
    predict = fit_baseline("tfidf", task, rows, rows[:10])
    scores = predict([row.text for row in rows])
    truth = encode_labels(task, rows)
    seen = truth.any(axis=0)
    assert (scores.argmax(axis=1) == truth.argmax(axis=1)).all()
    np.testing.assert_array_equal(scores[:, ~seen], 0.0)


def test_unknown_baseline() -> None:
    with pytest.raises(RecipeError, match="'oracle' is unknown; use one of prior, keywords, tfidf"):
        fit_baseline("oracle", SEX, [], [])


def run(scores: list[list[float]], **changes: object) -> Predictions:
    rows = len(scores)
    made = Predictions(
        task="toy", kind="multilabel", labels=("A", "B"), system="one",
        split="test", seed=1, fold=0,
        ids=tuple(f"e{row}" for row in range(rows)), clusters=tuple("c" for _ in range(rows)),
        scores=np.array(scores), truth=np.ones((rows, 2), bool),
        trained_on=frozenset({"x"}), model_digest="d",
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_blend_is_the_mean_of_the_log_odds() -> None:
    one = run([[0.8, 0.5], [0.0, 1.0]])
    other = run([[0.2, 0.9], [0.0, 0.5]], trained_on=frozenset({"y"}))
    (blend,) = blend_predictions([one], [other], system="hybrid")
    assert blend.system == "hybrid" and blend.trained_on == {"x", "y"}
    np.testing.assert_allclose(blend.scores[0], [0.5, 0.75])  # odds sqrt(1 * 9) = 3
    assert blend.scores[1, 0] < 1e-5 and 0.99 < blend.scores[1, 1] < 1
    check_predictions(blend)


def test_only_the_same_rows_are_blended() -> None:
    one = run([[0.8, 0.5]])
    for other in ([], [run([[0.8, 0.5]], fold=1)], [one, run([[0.8, 0.5]], fold=1)]):
        with pytest.raises(RecordError, match="not in both systems"):
            blend_predictions([one], other, system="hybrid")
    with pytest.raises(RecordError, match="different rows"):
        blend_predictions([one], [run([[0.8, 0.5]], ids=("e9",))], system="hybrid")


def test_a_blend_of_the_command_line_is_judged_as_a_system(tmp_path: Path) -> None:
    texts = (f"{'slow' if n % 2 else 'no'} money {n * 7919}" for n in range(60))
    rows = "\n".join(f"{text}\t{n % 2}\t{1 - n % 2}" for n, text in enumerate(texts))
    (tmp_path / "own.tsv").write_text(f"text\tA\tB\n{rows}\n")
    own = DeclaredTaskSettings(
        name="own", kind="multilabel", labels=("A", "B"), labelled=str(tmp_path / "own.tsv"),
        run_folds=1,
    )  # fmt: skip
    settings = TasksSettings(declared=(own,))
    for system in ("tfidf", "prior"):
        finetune("own", system, settings=settings, path=tmp_path / system)
    both = ["--blend-of", str(tmp_path / "tfidf"), "--blend-of", str(tmp_path / "prior")]
    runner = CliRunner()
    out = str(tmp_path / "hybrid")
    done = runner.invoke(app, ["finetune", "own", "--system", "hybrid", *both, "-o", out])
    assert done.exit_code == 0, done.output
    assert {run.system for run in load_predictions(Path(out) / "predictions.parquet")} == {"hybrid"}
    for asked, message in (
        (["sex", *both], "fitted for own, not for sex"),
        (["own", *both[:2]], "a blend is of two classifiers, not 1"),
        (["own", *both, "--model", out], "--blend-of fits nothing; leave --model out"),
        (["own", *both, "--snapshot", out], "--blend-of fits nothing; leave --snapshot out"),
        (["own", *both, "--column", "x"], "--blend-of fits nothing; leave --column out"),
        (["own", *both, "--protocol", "published"], "nothing; leave --protocol out"),
        (["sex", "--protocol", "published", "--prefer", "f1"], "leave --prefer out"),
        (["sex", "--protocol", "published", "--dry-run"], "leave --dry-run out"),
    ):
        refused = runner.invoke(app, ["finetune", *asked, "-o", str(tmp_path / "x")])
        assert message in f"{refused.exception} {refused.output}"
        assert refused.exit_code == (2 if "leave --" in message else 1)
