"""What the page asks for and gets beyond `/v1/predict`, with examples."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trialese.web.nearest import Neighbour
from trialese.web.shelf import Counts, Found

__all__ = [
    "Annotator",
    "Answer",
    "NctId",
    "NearestAnswer",
    "NearestRequest",
    "PageFacts",
    "QueueAnswer",
    "QueueItem",
    "SnapshotFacts",
    "TrialAnswer",
    "TrialsAnswer",
    "Undo",
    "Undone",
]

NctId = Annotated[str, Field(pattern=r"^NCT[0-9]{8}$", examples=["NCT90000001"])]
Annotator = Annotated[
    str,
    Field(pattern=r"^[\w.@+-]([\w .@+-]{0,62}[\w.@+-])?$", examples=["ann"], description="A name."),
]
ModelName = Annotated[str, Field(description="Name of a served model; without it, the first.")]


class SnapshotFacts(BaseModel):
    """The snapshot that is searched, and how far its models have read it."""

    trials: int
    data_timestamp: str | None
    synthetic: bool
    attribution: str
    indexed: bool = Field(description="Whether it can be searched yet.")
    read: dict[str, float] = Field(description="Model -> share of the trials it is done with.")
    failure: str = ""


class PageFacts(BaseModel):
    """What the page needs to know first."""

    version: str
    ready: bool = Field(description="Whether the models are loaded.")
    snapshot: SnapshotFacts | None
    verdict: str | None = Field(description="Path of the report.")
    labelling: bool = Field(description="Whether answers of annotators are kept.")
    live: bool = Field(description="Whether the registry is asked for unknown trials.")


class TrialAnswer(BaseModel):
    """One trial, and what the model reads of it."""

    nct_id: str
    found_in: Literal["snapshot", "registry"]
    text: str = Field(description='"" if the trial holds nothing that the model reads.')
    trial: dict[str, Any]


class TrialsAnswer(BaseModel):
    """A page of a search, and counts over all of it."""

    counts: Counts
    trials: list[Found]


class NearestRequest(BaseModel):
    """A text."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "Slow accrual"}]}
    )
    model: ModelName = ""
    text: str = Field(pattern=r"\S")
    most: int = Field(5, ge=1, le=20)


class NearestAnswer(BaseModel):
    """Labelled texts, the nearest first."""

    neighbours: list[Neighbour]
    missing: str = Field("", description="Why there are none to compare with.")


class QueueItem(BaseModel):
    """A text to be labelled, and why now."""

    key: str
    nct_id: str
    text: str
    texts: int = Field(description="Duplicates that the answer serves, this one included.")
    duplicates: list[str] = Field(description="NCT ids of some of them.")
    scores: dict[str, float] = Field(description="What the model predicts: look after answering.")
    second: bool = Field(description="Somebody else has labelled it: this measures agreement.")
    uncertainty: float
    novelty: float
    worth: float


class QueueAnswer(BaseModel):
    """The next texts, and how far the work has come."""

    items: list[QueueItem]
    clusters: int = Field(description="Of duplicates, in the queue as a whole.")
    texts: int
    answered: dict[str, int] = Field(description="Annotator -> answers that stand.")
    served: int = Field(description="Texts that have labels by these answers.")


class Answer(BaseModel):
    """An annotator's labels for a text of the queue; null: skipped."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"annotator": "ann", "key": "0" * 32, "labels": ["Enrollment"]}]
        },
    )
    model: ModelName = ""
    annotator: Annotator
    key: str = Field(pattern=r"^[0-9a-f]{32}$")
    labels: list[str] | None


class Undo(BaseModel):
    """Whose latest answer is to be undone."""

    model_config = ConfigDict(extra="forbid")
    model: ModelName = ""
    annotator: Annotator


class Undone(BaseModel):
    """What became of the latest answer."""

    undone: bool = Field(description="False: there was none.")
    item: QueueItem | None = Field(description="Its text, unless that has left the queue.")
    labels: list[str] = []
