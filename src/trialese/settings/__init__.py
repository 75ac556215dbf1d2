"""The sections of a recipe: every setting, its unit and its default, one struct a stage.

A stage is handed its own section and nothing else. Ratios and shares are in [0, 1]. In a recipe
an empty string unsets what may be None.
"""

from __future__ import annotations

from trialese.settings.judging import (
    DeclaredTaskSettings,
    FinetuneSettings,
    SexSettings,
    SilverSettings,
    StopReasonsSettings,
    TasksSettings,
    VerdictSettings,
)
from trialese.settings.learning import (
    BackboneSettings,
    HeldoutSettings,
    LoraSettings,
    MaskingSettings,
    PhaseSettings,
    PretrainSettings,
)
from trialese.settings.section import (
    Precision,
    Section,
)
from trialese.settings.serving import ServeSettings
from trialese.settings.text import (
    BlockSettings,
    BoilerplateSettings,
    CollectSettings,
    CorpusSettings,
    DedupSettings,
    FilterSettings,
    RenderSettings,
    SampleSettings,
    SplitSettings,
)

__all__ = [
    "BackboneSettings",
    "BlockSettings",
    "BoilerplateSettings",
    "CollectSettings",
    "CorpusSettings",
    "DeclaredTaskSettings",
    "DedupSettings",
    "FilterSettings",
    "FinetuneSettings",
    "HeldoutSettings",
    "LoraSettings",
    "MaskingSettings",
    "PhaseSettings",
    "Precision",
    "PretrainSettings",
    "RenderSettings",
    "SampleSettings",
    "Section",
    "ServeSettings",
    "SexSettings",
    "SilverSettings",
    "SplitSettings",
    "StopReasonsSettings",
    "TasksSettings",
    "VerdictSettings",
]
