"""trialese keeps a language model of clinical-trial text up to date, and scores it honestly.

The public names are loaded on first use: importing trialese never imports torch.
"""

from __future__ import annotations

from trialese.lazy import load_lazily

__version__ = "0.1.0"

_HOMES = {
    "trialese.errors": (
        "ArtifactError",
        "LeakageError",
        "RecipeError",
        "RecordError",
        "RegistryError",
        "TrialeseError",
    ),
    "trialese.recipe": ("Recipe", "load_recipe", "parse_recipe"),
    "trialese.judging": ("judge_classifiers",),
    "trialese.pipeline": ("run_recipe",),
    "trialese.predictions": ("load_predictions", "save_predictions"),
    "trialese.collect": ("collect_snapshot", "compare_snapshots", "open_snapshot", "read_trials"),
    "trialese.corpus": (
        "build_blocks",
        "build_corpus",
        "clean_text",
        "open_blocks",
        "open_corpus",
        "read_documents",
        "render_document",
    ),
    "trialese.pretrain": (
        "build_base",
        "load_backbone",
        "load_tokenizer",
        "tokenise_corpus",
        "tokenizer_digest",
        "train_adapter",
    ),
    "trialese.tasks": ("Classifier", "build_examples", "finetune", "read_labelled", "task_named"),
    "trialese.verdict": (
        "choose_thresholds",
        "format_table",
        "judge",
        "load_verdicts",
        "write_report",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]  # noqa: PLE0604 - the names are strings of the table above

__getattr__, __dir__ = load_lazily(__name__, _HOME_OF)
