"""What a task declares, in code or in a recipe, and what then works for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import trialese
from trialese.artifacts import digest_of, read_manifest
from trialese.collect.collection import collect_snapshot
from trialese.errors import RecipeError, RecordError
from trialese.pipeline.evaluate import judge_classifiers
from trialese.pipeline.plan import plan_recipe
from trialese.predictions import load_predictions
from trialese.recipe import load_recipe, parse_recipe
from trialese.records import Example, Task, Trial
from trialese.settings import (
    CollectSettings,
    DeclaredTaskSettings,
    DedupSettings,
    SampleSettings,
    SexSettings,
    SilverSettings,
    StopReasonsSettings,
    TaskSettings,
    TasksSettings,
    VerdictSettings,
)
from trialese.tasks.finetune import finetune
from trialese.tasks.folds import (
    TASKS,
    build_examples,
    define_task,
    defined_in,
    describe_section,
    task_named,
)
from trialese.tasks.sex import SEX, cut_sex_words
from trialese.tasks.stop_reasons import STOP_REASONS
from trialese.tasks.task import (
    TaskDefinition,
    declared_task,
    define_declared,
    encode_labels,
    examples_of_declared,
    sentence_examples,
)
from trialese.verdict.report import load_verdicts


def test_task_named_returns_the_declared_tasks() -> None:
    assert task_named("stop-reasons") is STOP_REASONS
    assert task_named("sex") is SEX
    assert (STOP_REASONS.kind, len(STOP_REASONS.labels)) == ("multilabel", 17)
    assert (SEX.kind, SEX.labels) == ("multiclass", ("All", "Female", "Male"))


def test_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'phase' is unknown; use one of stop-reasons, sex"):
        task_named("phase")


def test_encode_labels_keeps_the_order_of_the_task() -> None:
    task = Task("t", ("b", "a", "c"), "multilabel")
    examples = [Example("1", "x", ("a", "b")), Example("2", "y", ()), Example("3", "z", ("c",))]
    expected = [[True, True, False], [False, False, False], [False, False, True]]
    np.testing.assert_array_equal(encode_labels(task, examples), expected)


def test_encode_labels_names_the_example_with_an_unknown_label() -> None:
    task = Task("t", ("a",), "multilabel")
    with pytest.raises(RecordError, match=r"example 7: unknown label 'A'; t knows a"):
        encode_labels(task, [Example("7", "x", ("A",))])


def test_multiclass_takes_exactly_one_label() -> None:
    with pytest.raises(RecordError, match="2 labels, but sex takes exactly one"):
        encode_labels(SEX, [Example("7", "x", ("Male", "Female"))])
    with pytest.raises(RecordError, match="0 labels"):
        encode_labels(SEX, [Example("7", "x", ())])


TRIALS = [
    Trial(nct_id="NCT1", brief_title="First in man", phases=("PHASE1",), healthy_volunteers=True),
    Trial(nct_id="NCT2", brief_title="Seamless", phases=("PHASE1", "PHASE2")),
    Trial(nct_id="NCT3", brief_title="Observed", healthy_volunteers=False),
    Trial(nct_id="NCT4", phases=("PHASE2",)),
]
RECIPE = """
[tasks]
names = ["phase"]

[[tasks.declared]]
name = "phase"
kind = "multilabel"
labels = ["PHASE1", "PHASE2"]
field = "phases"
"""


def test_a_task_in_ten_lines() -> None:
    settings = parse_recipe(RECIPE).tasks
    assert task_named("phase", settings) == Task("phase", ("PHASE1", "PHASE2"), "multilabel")
    dropped: dict[str, int] = {}
    examples = examples_of_declared(TRIALS, settings.declared[0], dropped)
    assert [(e.example_id, e.labels) for e in examples] == [
        ("NCT1", ("PHASE1",)), ("NCT2", ("PHASE1", "PHASE2")),
    ]  # fmt: skip
    assert dropped == {"no_phases": 1, "no_text": 1}


def test_truth_values_are_yes_and_no() -> None:
    settings = DeclaredTaskSettings(
        name="healthy", kind="multiclass", labels=("Yes", "No"), field="healthy_volunteers"
    )
    examples = examples_of_declared(TRIALS, settings, {})
    assert [e.labels for e in examples] == [("Yes",), ("No",)]


def test_the_field_itself_is_not_read() -> None:
    settings = DeclaredTaskSettings(
        name="phase", kind="multilabel", labels=("PHASE1", "PHASE2"), field="phases",
        fields=("brief_title", "phases"),
    )  # fmt: skip
    examples = examples_of_declared(TRIALS, settings, {})
    assert all("PHASE" not in example.text for example in examples)


def test_trials_with_other_values_may_be_left_out_and_are_counted() -> None:
    settings = DeclaredTaskSettings(
        name="phase", kind="multilabel", labels=("PHASE1",), field="phases"
    )
    with pytest.raises(RecordError, match="or set leave_out_other_values = true to leave such"):
        examples_of_declared(TRIALS, settings, {})
    dropped: dict[str, int] = {}
    settings = replace(settings, leave_out_other_values=True)
    (example,) = examples_of_declared(TRIALS, settings, dropped)
    assert (example.example_id, dropped) == ("NCT1", {"no_phases": 1, "other_phases": 2})


def test_a_task_from_a_labelled_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nmice,animal\nmen,human\n")
    own = DeclaredTaskSettings(
        name="who", kind="multiclass", labels=("animal", "human"),
        labelled=str(tmp_path / "a.csv"),
    )  # fmt: skip
    found = build_examples("who", TasksSettings(declared=(own,)), None)
    assert [e.labels for e in found.examples] == [("animal",), ("human",)]


def test_an_undeclared_value_names_the_trial() -> None:
    settings = DeclaredTaskSettings(
        name="phase", kind="multilabel", labels=("PHASE1",), field="phases"
    )
    with pytest.raises(RecordError, match=r"NCT2: unknown label 'PHASE2'; phase knows PHASE1"):
        examples_of_declared(TRIALS, settings, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ()}, "labels are missing or repeated"),
        ({"labels": ("a", "a")}, "labels are missing or repeated"),
        ({"field": None}, "give either `field` or `labelled`"),
        ({"labelled": "x.tsv"}, "give either `field` or `labelled`"),
        ({"field": "phase"}, "a trial has no field 'phase'"),
    ],
)
def test_a_wrong_declaration(changes: dict[str, object], message: str) -> None:
    given = {"name": "t", "kind": "multilabel", "labels": ("a",), "field": "phases"} | changes
    with pytest.raises(RecipeError, match=message):
        declared_task(DeclaredTaskSettings(**given))  # type: ignore[arg-type]


def test_names_of_the_house_are_taken() -> None:
    own = DeclaredTaskSettings(name="sex", kind="multilabel", labels=("a",), field="phases")
    with pytest.raises(RecipeError, match="'sex' is taken"):
        task_named("sex", TasksSettings(declared=(own,)))


def test_sentences_with_sex_words_go_and_the_rest_stays() -> None:
    text = (
        "Gout in adults. Women may enrol.\n\nInclusion:\n* Age 40; not pregnant\n"
        "* Management of others\n* Men"
    )
    assert cut_sex_words(text) == "Gout in adults.\n\nInclusion:\n* Age 40;\n* Management of others"


def test_what_was_fitted_before_stays_finished() -> None:
    """Digests of settings as version 0.1 wrote them: settings that came later change none."""
    silver = SilverSettings(table="s.tsv")
    own = DeclaredTaskSettings(name="phase", kind="multilabel", labels=("A", "B"), field="phases")
    asked: list[tuple[TaskSettings, str, str]] = [
        (StopReasonsSettings(), "04aa8fe86294ba84", "d05b8c51cb9b1c01"),
        (SexSettings(), "a953b8c3991d651a", "876f3ba9e2e151bc"),
        (SexSettings(missing="label", max_trials=9), "f4f56f06b76123aa", "2188f02744ef8c0a"),
        (own, "9848d89b4d34b487", "50839b98f4437285"),
        (
            StopReasonsSettings(labelled="a.tsv", sentences=2, inner_folds=3, silver=silver),
            "d24b56737463b9e5",
            "e19d591c7fe3471c",
        ),
    ]
    for section, model, baseline in asked:
        for is_model, digest in ((True, model), (False, baseline)):
            described = describe_section(section, is_model=is_model)
            assert digest_of(described)[:16] == digest


def blood(settings: TasksSettings) -> TaskDefinition:
    """A task in code: whether a title tells of blood."""
    task = Task("blood", ("Blood", "Other"), "multiclass")
    section = TaskSettings(folds=2, tune_share=0.4)

    def read(trials: Iterable[Trial], dropped: dict[str, int]) -> list[Example]:
        titles = [(trial.nct_id, trial.brief_title or "") for trial in trials]
        return [
            Example(name, title, ("Blood" if "ia" in title else "Other",))
            for name, title in sorted(titles)
        ]

    return TaskDefinition(
        task, section, read, fields=("brief_title",), keywords={"Blood": ("leuk", "anaem")},
        groups={"Blood": "All", "Other": "All"}, tokens_a_text=9,
    )  # fmt: skip


def test_a_task_in_code_is_fitted_judged_and_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "blood", blood)
    snapshot = collect_snapshot(
        CollectSettings(sample=SampleSettings(studies=120)), tmp_path / "snapshot"
    )
    folders = [tmp_path / system for system in ("keywords", "prior", "tfidf")]
    for folder in folders:
        finetune("blood", folder.name, snapshot=snapshot, settings=TasksSettings(), path=folder)
    judge_classifiers(folders, VerdictSettings(resamples=50), tmp_path / "verdict")
    (verdict,) = load_verdicts(tmp_path / "verdict")
    assert verdict.labels == ("Blood", "Other")
    recipe = parse_recipe(f'folder = "{tmp_path}"\n[tasks]\nnames = ["blood"]')
    planned = {stage.name: stage for stage in plan_recipe(recipe)}
    assert set(planned) >= {"blood/prior", "blood/adapted"}


def test_a_declared_task_has_every_facility(tmp_path: Path) -> None:
    """Sentences, key words, silver texts and groups, from the recipe."""
    words = {"animal": "mice rats", "human": "men women"}
    rows = [f"{words[label]} number {n * 7919}\t{label}" for n in range(30) for label in words]
    (tmp_path / "gold.tsv").write_text("\n".join(["text\tlabels", *rows]))
    (tmp_path / "silver.tsv").write_text("text\tlabels\nferrets of a zoo\tanimal\nnurses\thuman\n")
    (tmp_path / "own.toml").write_text(f"""
[tasks]
names = ["who"]
[[tasks.declared]]
name = "who"
kind = "multiclass"
labels = ["animal", "human"]
labelled = "{tmp_path / "gold.tsv"}"
run_folds = 1
tune_share = 0.3
sentences = 3
label_sentences = {{ animal = ["Carried out in dogs."] }}
keywords = {{ animal = ["mice"], human = ["women"] }}
groups = {{ animal = "living", human = "living" }}
silver = {{ table = "{tmp_path / "silver.tsv"}" }}
""")
    recipe = load_recipe(tmp_path / "own.toml")
    for system in ("keywords", "tfidf"):
        made = finetune("who", system, settings=recipe.tasks, path=tmp_path / system)
        assert made.notes["silver"]["texts"] == 2
    keywords = load_predictions(tmp_path / "keywords" / "predictions.parquet")
    assert all(run.truth[run.scores.argmax(1) == 0, 0].all() for run in keywords)
    definition = defined_in(read_manifest(tmp_path / "tfidf").settings)
    assert definition is not None and definition.groups == {"animal": "living", "human": "living"}


def test_the_plan_costs_a_declared_task_by_its_own_file(
    tmp_path: Path, tiny_backbone: Path
) -> None:
    """Not as if it were stop reasons: rows and length come from its file."""
    rows = "\n".join(f"{'word ' * 40}{n}\tA" for n in range(500))
    (tmp_path / "long.tsv").write_text(f"text\tlabels\n{rows}\n")
    recipe = parse_recipe(f"""
folder = "{tmp_path}"
pretrain.backbone.name = "{tiny_backbone}"
[tasks]
names = ["own", "short"]
[[tasks.declared]]
name = "own"
kind = "multilabel"
labels = ["A", "B"]
labelled = "{tmp_path / "long.tsv"}"
finetune = {{ epochs = 1 }}
[[tasks.declared]]
name = "short"
kind = "multilabel"
labels = ["A", "B"]
labelled = "{tmp_path / "long.tsv"}"
finetune = {{ epochs = 1, max_tokens = 8 }}
""")
    planned = {stage.name: stage for stage in plan_recipe(recipe)}
    long, short = planned["own/base"].tokens, planned["short/base"].tokens
    assert long is not None and short is not None
    fitted_rows = 500 * (0.8 * 5 + 1)  # five folds of four fifths, and the final fit
    assert fitted_rows * 40 < long < fitted_rows * 60  # tokens a row
    assert short < long / 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentences": 2}, "sentences = 2, but its labels have none"),
        ({"keywords": {"C": ("x",)}}, "no label 'C'; it has a, b"),
        ({"groups": {"a": "x"}}, "groups lack 'b'"),
    ],
)
def test_what_labels_do_not_have_is_named(changes: dict[str, object], message: str) -> None:
    own = {"name": "t", "kind": "multilabel", "labels": ("a", "b"), "field": "phases"} | changes
    settings = TasksSettings(declared=(DeclaredTaskSettings(**own),))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=message):
        define_task("t", settings)


def test_nothing_asks_which_task_it_is() -> None:
    """Outside the files of the tasks themselves no settings class and no name is asked for."""
    package = Path(trialese.__file__).parent
    own = {"sex.py", "stop_reasons.py", "settings.py", "ablate.py", "opentargets.py"}
    for module in package.rglob("*.py"):
        text = module.read_text(encoding="utf-8")
        if module.name not in own:
            assert not re.search(r"isinstance\([^)]*(Sex|StopReasons|Declared\w*)Settings", text)
            assert not re.search(r"(task|name) [!=]= \"(sex|stop-reasons)\"", text), module


def test_a_sentence_may_have_several_labels_where_a_text_may(tmp_path: Path) -> None:
    (tmp_path / "gold.tsv").write_text("text\tlabels\nslow\tA\n")
    options = {"labels": ("A", "B"), "labelled": str(tmp_path / "gold.tsv"), "sentences": 1}
    both = {"A": ("only a",), "A|B": ("a and b",)}
    several = DeclaredTaskSettings(name="own", kind="multilabel", label_sentences=both, **options)
    made = sentence_examples(define_declared(several).sentences, [], DedupSettings(), times=1)
    assert [(e.text, e.labels) for e in made] == [("only a", ("A",)), ("a and b", ("A", "B"))]
    one = DeclaredTaskSettings(name="own", kind="multiclass", label_sentences=both, **options)
    with pytest.raises(RecipeError, match=r"tasks, own: no label 'A\|B'; it has A, B"):
        define_declared(one)
    words = DeclaredTaskSettings(name="own", kind="multilabel", keywords={"A|B": ("x",)}, **options)
    with pytest.raises(RecipeError, match=r"no label 'A\|B'"):
        define_declared(words)
