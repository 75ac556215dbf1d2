"""Trials or labelled texts in, Classifier and Predictions out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trialese.lazy import load_lazily

if TYPE_CHECKING:
    from trialese.tasks.ablation import ablate_sex
    from trialese.tasks.agreement import compare_labels, write_disagreements
    from trialese.tasks.bulk import predict_file
    from trialese.tasks.classifier import Classifier
    from trialese.tasks.explaining import Explanation, explain
    from trialese.tasks.exporting import export_classifier
    from trialese.tasks.fits import finetune
    from trialese.tasks.folds import ExampleSet, build_examples, describe_section, section_of
    from trialese.tasks.hub import is_hub_id
    from trialese.tasks.labelled import read_labelled
    from trialese.tasks.predicting import LabelledText, predict_inputs
    from trialese.tasks.protocols import finetune_published
    from trialese.tasks.reading import read_texts
    from trialese.tasks.scorer import Scorer, load_scorer
    from trialese.tasks.sex import SEX
    from trialese.tasks.stop_reasons import STOP_REASON_GROUPS, STOP_REASONS
    from trialese.tasks.task import encode_labels, task_named

__all__ = [
    "SEX",
    "STOP_REASONS",
    "STOP_REASON_GROUPS",
    "Classifier",
    "ExampleSet",
    "Explanation",
    "LabelledText",
    "Scorer",
    "ablate_sex",
    "build_examples",
    "compare_labels",
    "describe_section",
    "encode_labels",
    "explain",
    "export_classifier",
    "finetune",
    "finetune_published",
    "is_hub_id",
    "load_scorer",
    "predict_file",
    "predict_inputs",
    "read_labelled",
    "read_texts",
    "section_of",
    "task_named",
    "write_disagreements",
]

_HOME_OF = {
    "SEX": "trialese.tasks.sex",
    "STOP_REASONS": "trialese.tasks.stop_reasons",
    "STOP_REASON_GROUPS": "trialese.tasks.stop_reasons",
    "Classifier": "trialese.tasks.classifier",
    "ExampleSet": "trialese.tasks.folds",
    "Explanation": "trialese.tasks.explaining",
    "LabelledText": "trialese.tasks.predicting",
    "Scorer": "trialese.tasks.scorer",
    "ablate_sex": "trialese.tasks.ablation",
    "build_examples": "trialese.tasks.folds",
    "compare_labels": "trialese.tasks.agreement",
    "describe_section": "trialese.tasks.folds",
    "encode_labels": "trialese.tasks.task",
    "explain": "trialese.tasks.explaining",
    "export_classifier": "trialese.tasks.exporting",
    "finetune": "trialese.tasks.fits",
    "load_scorer": "trialese.tasks.scorer",
    "predict_file": "trialese.tasks.bulk",
    "finetune_published": "trialese.tasks.protocols",
    "is_hub_id": "trialese.tasks.hub",
    "predict_inputs": "trialese.tasks.predicting",
    "read_labelled": "trialese.tasks.labelled",
    "read_texts": "trialese.tasks.reading",
    "section_of": "trialese.tasks.folds",
    "task_named": "trialese.tasks.task",
    "write_disagreements": "trialese.tasks.agreement",
}

__getattr__, __dir__ = load_lazily(__name__, _HOME_OF)
