"""Trials or labelled texts in, Classifier and Predictions out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trialese.tasks.ablation import ablate_sex
    from trialese.tasks.agreement import compare_labels, write_disagreements
    from trialese.tasks.bulk import predict_file
    from trialese.tasks.classifier import Classifier
    from trialese.tasks.explaining import Explanation, explain
    from trialese.tasks.exporting import export_classifier
    from trialese.tasks.fits import finetune
    from trialese.tasks.folds import ExampleSet, build_examples, section_of
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
    "SEX": "sex",
    "STOP_REASONS": "stop_reasons",
    "STOP_REASON_GROUPS": "stop_reasons",
    "Classifier": "classifier",
    "ExampleSet": "folds",
    "Explanation": "explaining",
    "LabelledText": "predicting",
    "Scorer": "scorer",
    "ablate_sex": "ablation",
    "build_examples": "folds",
    "compare_labels": "agreement",
    "encode_labels": "task",
    "explain": "explaining",
    "export_classifier": "exporting",
    "finetune": "fits",
    "load_scorer": "scorer",
    "predict_file": "bulk",
    "finetune_published": "protocols",
    "is_hub_id": "hub",
    "predict_inputs": "predicting",
    "read_labelled": "labelled",
    "read_texts": "reading",
    "section_of": "folds",
    "task_named": "task",
    "write_disagreements": "agreement",
}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
