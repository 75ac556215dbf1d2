"""What goes over the wire, with examples: the source of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "ExplainRequest",
    "Explanation",
    "Failure",
    "JobCard",
    "JobFormat",
    "Jobs",
    "ModelCard",
    "Models",
    "PredictAnswer",
    "PredictRequest",
    "Prediction",
    "Span",
    "State",
    "Version",
    "failures",
]

Text = Annotated[str, Field(pattern=r"\S", description="Any text but blanks.")]
NctId = Annotated[str, Field(pattern=r"^NCT[0-9]{8}$")]
_STUDY: dict[str, Any] = {
    "protocolSection": {
        "identificationModule": {"nctId": "NCT90000001", "briefTitle": "Drug A in asthma"},
        "statusModule": {"overallStatus": "TERMINATED", "whyStopped": "Slow accrual"},
    }
}


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PredictRequest(_Request):
    """Texts, or trials, or NCT ids: one of the three."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [{"required": ["texts"]}, {"required": ["trials"]}, {"required": ["nct_ids"]}],
            "examples": [
                {"texts": ["Slow accrual and lack of funding"]},
                {"model": "stop-reasons", "nct_ids": ["NCT90000001"]},
                {"trials": [_STUDY]},
            ],
        },
    )
    model: str = Field(default="", description="Name of a served model; without it, the first.")
    texts: list[Text] = Field(default=[], min_length=1)
    trials: list[dict[str, Any]] = Field(
        default=[],
        min_length=1,
        description="Studies as version 2 of the registry's API gives them.",
    )
    nct_ids: list[NctId] = Field(
        default=[], min_length=1, description="Looked up in the snapshot that the server was given."
    )

    @model_validator(mode="after")
    def _one_of_three(self) -> PredictRequest:
        if len(self.model_fields_set & {"texts", "trials", "nct_ids"}) != 1:
            raise ValueError("give exactly one of texts, trials and nct_ids")
        return self


class Prediction(BaseModel):
    """One text or trial with its predicted labels and the probability of every label."""

    nct_id: str | None = None
    text: str = Field(description="What was read, as it was given.")
    labels: list[str] = Field(description="Predicted labels, in the task's order.")
    scores: dict[str, float]
    missing: Literal["no_text", "not_in_snapshot", "unreadable"] | None = Field(
        default=None, description="Why there is no prediction."
    )
    message: str | None = Field(default=None, description="What is wrong with an unreadable study.")


class ModelCard(BaseModel):
    """What a served model is."""

    model: str
    digest: str
    task: str
    kind: Literal["multilabel", "multiclass"]
    labels: list[str]
    thresholds: dict[str, float] | None = Field(
        description="Cut-off of each label; null where the largest probability wins."
    )
    chosen_on: Literal["train", "tune", "test"] | None = Field(
        description="Split that the cut-offs were chosen on; null: they are 0.5."
    )
    description: str = ""


class Models(BaseModel):
    """All served models, the default first."""

    models: list[ModelCard]


class PredictAnswer(ModelCard):
    """One prediction an item, in the order of the request."""

    predictions: list[Prediction]


class ExplainRequest(_Request):
    """One text, and which label of it to explain."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"text": "Slow accrual and lack of funding"}]},
    )
    model: str = Field(default="", description="Name of a served model; without it, the first.")
    text: Text
    label: str | None = Field(
        default=None, description="Without it, the label with the highest probability."
    )


class Span(BaseModel):
    """Characters `start` to `end` (counted in code points) of the text that was read."""

    start: int
    end: int
    weight: float = Field(description="Share of the label's log-odds; negative: spoke against it.")


class Explanation(BaseModel):
    """A span a word, in the order of the text."""

    text: str = Field(description="As the model reads it, which spans count in.")
    label: str
    probability: float
    spans: list[Span]


JobFormat = Literal["csv", "tsv", "jsonl", "parquet"]


class JobCard(BaseModel):
    """One uploaded file and how far its labels are."""

    id: str
    name: str = Field(description="Of the uploaded file, made harmless.")
    bytes: int
    model: str
    digest: str = Field(description="Of the model when the file came.")
    format: JobFormat
    state: Literal["waiting", "running", "done", "failed"]
    records: int = Field(description="Done so far.")
    texts: int = Field(description="That got labels; told when done.")
    left_out: dict[str, int] = Field(description="Records without a text for the task, by reason.")
    message: str = Field(description="Why it failed.")
    created: str
    finished: str | None


class Jobs(BaseModel):
    """All jobs, the newest first."""

    jobs: list[JobCard]


class State(BaseModel):
    """How the server is."""

    status: Literal["ok", "ready"]


class Version(BaseModel):
    """Which trialese answers."""

    version: str


class Failure(BaseModel):
    """Every answer that is no result."""

    error: str = Field(description="A code for programs.", examples=["queue_full"])
    message: str = Field(description="One line for people: what is wrong and what to do.")
    details: list[dict[str, str]] = Field(default=[], description="Where, if in several places.")


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's OpenAPI entry says of the answers with these statuses."""
    return {status: {"model": Failure} for status in statuses}
