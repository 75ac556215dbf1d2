"""Everything that a server serves: classifiers by name, a snapshot, a verdict, folders to write."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialese.artifacts import MANIFEST_NAME, read_manifest
from trialese.collect.snapshot import open_snapshot
from trialese.errors import ArtifactError, RecipeError, TrialeseError
from trialese.records import Snapshot, Task
from trialese.tasks.folds import defined_in
from trialese.tasks.formats import KNOWN_COLUMNS, AskedColumns
from trialese.tasks.predict import load_scorer
from trialese.tasks.scorer import (
    model_folder,
    named_results,
    read_description,
    with_preference,
)
from trialese.thresholds import read_preference
from trialese.verdict.report import load_verdicts
from trialese.web.active_learning import MOST_TEXTS
from trialese.web.guidelines import read_guidelines
from trialese.web.own_texts import OwnTexts, read_own_texts
from trialese.web.schemas import LabelDefinition, ModelCard, ModelDescription, Prediction, Refusal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trialese.generations import Generation
    from trialese.tasks.scorer import Scorer

__all__ = ["Served", "ServedModel", "open_served", "open_served_generation"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ServedModel:
    """A classifier under the name that requests call it by."""

    name: str
    scorer: Scorer
    definitions: dict[str, LabelDefinition] = field(default_factory=dict)
    folder: Path = Path()
    _for_uses: dict[str, ServedModel] = field(default_factory=dict)
    """Those of `uses` that were asked for: what they cannot promise is logged once."""

    def description(self) -> ModelDescription:
        """The model with the definitions of its labels."""
        return ModelDescription(**dict(self.card()), definitions=self.definitions)

    def card(self) -> ModelCard:
        """The model as the API describes it."""
        task, cuts = self.scorer.task, self.scorer.thresholds
        values = (0.5,) * len(task.labels) if cuts is None else cuts.values
        return ModelCard(
            model=self.name,
            digest=self.scorer.digest,
            engine=self.scorer.engine,
            task=task.name,
            kind=task.kind,
            labels=list(task.labels),
            thresholds=dict(zip(task.labels, values, strict=True))
            if task.kind == "multilabel"
            else None,
            chosen_on=None if cuts is None or task.kind == "multiclass" else cuts.chosen_on,
            calibrated=self.scorer.calibration is not None,
            prefer="f1" if cuts is None else cuts.prefer,
            uses=self._uses(),
            description=task.description,
        )

    def _uses(self) -> list[str]:
        cuts, several = self.scorer.thresholds, self.scorer.task.kind == "multilabel"
        if cuts is None:
            return []
        promises = ["precision=0.9", *(["recall=0.9"] if several else [])] if cuts.points else []
        return ["f1", *promises]

    def preferring(self, preference: str) -> ServedModel:
        """The model with cut-offs for a use, such as "precision=0.9"; "": as it is.

        Raises:
            Refusal: 422, a preference that cannot be read; 409, one that this classifier lacks
                the figures for.
        """
        if not preference:
            return self
        if preference in self._for_uses:
            return self._for_uses[preference]
        try:
            read_preference(preference)
        except RecipeError as error:
            raise Refusal(422, str(error), code="invalid_preference") from error
        try:
            found = replace(self, scorer=with_preference(self.scorer, preference))
        except RecipeError as error:
            raise Refusal(409, str(error), code="no_such_cut_offs") from error
        if preference in self._uses():
            self._for_uses[preference] = found
        return found

    def predictions(self, texts: Sequence[str], scores: NDArray[np.float64]) -> list[Prediction]:
        """Label sets and probabilities of texts whose scores (texts, labels) are known."""
        return [
            Prediction(text=text, labels=list(labels), scores=chances, needs_person=asks)
            for text, (labels, chances, asks) in zip(
                texts, named_results(self.scorer, scores), strict=True
            )
        ]


@dataclass(slots=True)
class Served:
    """Everything that routes may use. `models` is filled by `load`, the default first."""

    folders: tuple[Path, ...]
    snapshot: Snapshot | None = None
    verdict: Path | None = None
    labels: Path | None = None
    """SQLite file of the labelling queue."""
    jobs: Path | None = None
    """Folder of uploaded files and their labels; None: no jobs are taken."""
    queue: dict[Path, OwnTexts] = field(default_factory=dict)
    """Folder of a classifier -> texts of the user's own for its labelling queue."""
    guidelines: str = ""
    """What annotators are told, as harmless HTML."""
    generation: int | None = None
    """Number of the generation of a run that all of this is of."""
    layers: dict[Path, tuple[Path, ...]] = field(default_factory=dict)
    """Folder of a classifier -> what it said of the snapshot's trials when they were scored."""
    models: dict[str, ServedModel] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether every model is loaded."""
        return len(self.models) == len(self.folders)

    def refuse_unless_ready(self) -> None:
        """Return once every model is loaded.

        Raises:
            Refusal: 503, they are still loading.
        """
        if not self.ready:
            raise Refusal(503, "the models are still loading; ask again", retry_seconds=2)

    def model_named(self, name: str) -> ServedModel:
        """The model called `name`, or the first.

        Raises:
            Refusal: 503 while models are loading, 404 for an unknown name.
        """
        self.refuse_unless_ready()
        if not name:
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(self.models)
            raise Refusal(404, f"no model {name!r} here; there are {known}", code="unknown_model")
        return self.models[name]

    def load(self) -> None:
        """Load the weights, unless they are loaded: seconds of work.

        Never in two threads at once: transformers patches itself while it loads.

        Raises:
            ArtifactError: no classifier in a folder, or two that would have one name.
        """
        if self.ready:
            return
        loaded = [(folder, load_scorer(folder)) for folder in self.folders]
        tasks = [scorer.task.name for _, scorer in loaded]
        models: dict[str, ServedModel] = {}
        for folder, scorer in loaded:
            name = scorer.task.name
            if tasks.count(name) > 1:
                name = f"{name}/{folder.resolve().name}"
            if name in models:
                raise ArtifactError(f"{folder}: {name!r} is served already; rename one folder")
            models[name] = ServedModel(name, scorer, _definitions(folder, scorer.task), folder)
        self.models = models


def _definitions(folder: Path, task: Task) -> dict[str, LabelDefinition]:
    """What the task says of its labels, as far as the folder tells which task it is."""
    described: dict[str, Any] = {"task": task.name}
    if (folder / MANIFEST_NAME).is_file():
        described = read_manifest(folder).settings
    try:
        definition = defined_in(described)
    except TrialeseError as error:
        logger.warning("%s: no definitions of labels (%s)", folder, error)
        return {}
    if definition is None:
        return {}
    meanings, sentences = definition.descriptions, definition.sentences
    return {
        label: LabelDefinition(
            description=meanings.get(label, ""), example=next(iter(sentences.get(label, ())), "")
        )
        for label in task.labels
        if label in meanings or label in sentences
    }


def open_served(
    folders: Sequence[Path],
    *,
    snapshot: Path | None = None,
    verdict: Path | None = None,
    labels: Path | None = None,
    jobs: Path | None = None,
    queue: Path | None = None,
    columns: AskedColumns = KNOWN_COLUMNS,
    guidelines: Path | None = None,
) -> Served:
    """The contents of these folders, checked but not yet loaded.

    `queue` is a file of texts to be labelled, in these `columns` of a table; `guidelines` a
    Markdown file for those who do it.

    Raises:
        ArtifactError: a folder does not hold what it should.
        RecordError: a file cannot be read or understood.
    """
    hows = {folder: read_description(model_folder(folder)).preprocessing for folder in folders}
    told = "" if guidelines is None else read_guidelines(guidelines)
    own: dict[Path, OwnTexts] = {}
    if queue is not None:
        own = {
            folder: read_own_texts(queue, how, most=MOST_TEXTS, columns=columns)
            for folder, how in hows.items()
        }
    if verdict is not None:
        load_verdicts(verdict)
    opened = open_snapshot(snapshot) if snapshot is not None else None
    return Served(tuple(folders), opened, verdict, labels, jobs, own, told)


def open_served_generation(found: Generation, **more: Any) -> Served:
    """The contents of one generation of a run, and `more` as for `open_served`.

    Predictions that are not what the generation was made with are left; the models score anew.

    Raises:
        ArtifactError: a folder does not hold what it should.
        RecordError: a file cannot be read or understood.
    """
    served = open_served(list(found.classifiers.values()), snapshot=found.snapshot, **more)
    layers = {}
    for task, folder in found.classifiers.items():
        if found.unaltered(found.predictions(task)):
            layers[folder] = found.predictions(task)
        else:
            logger.warning("%s: predictions of %s were altered; scored anew", found.path, task)
    return replace(served, generation=found.number, layers=layers)
