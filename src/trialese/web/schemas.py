"""Requests, answers and errors of the API with examples: the source of the OpenAPI document."""

from __future__ import annotations

import difflib
import errno
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from trialese.errors import RecordError
from trialese.tasks.formats import is_nct_number
from trialese.web.active_learning import Neighbour
from trialese.web.annotations import Decision
from trialese.web.search_index import Counts, SearchHit

__all__ = [
    "PREFERENCE",
    "Annotator",
    "Answer",
    "DecisionRequest",
    "Disagreements",
    "DisputedText",
    "ExplainAnswer",
    "ExplainRequest",
    "ExplainedSpan",
    "Failure",
    "Guidelines",
    "LabelDefinition",
    "ModelCard",
    "ModelDescription",
    "ModelName",
    "Models",
    "NctNumber",
    "NearestAnswer",
    "NearestRequest",
    "PageFacts",
    "PredictAnswer",
    "PredictRequest",
    "Prediction",
    "QueueAnswer",
    "QueueFacts",
    "QueueItem",
    "Refusal",
    "ServerState",
    "ServerVersion",
    "SnapshotFacts",
    "TrialAnswer",
    "TrialsAnswer",
    "Undo",
    "Undone",
    "as_response",
    "close_forms",
    "failures",
    "handle_failures",
    "refuse_unknown",
]


logger = logging.getLogger(__name__)

_CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    422: "invalid",
    429: "queue_full",
    503: "not_ready",
    504: "timeout",
    507: "disk_full",
}
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Refusal(HTTPException):
    """An answer that is no result: its status, a code for programs, a line for people."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        retry_seconds: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        if retry_seconds is not None:
            headers = {**(headers or {}), "Retry-After": str(retry_seconds)}
        super().__init__(status, message, headers)
        self.code = code or _CODES.get(status, "refused")


def as_response(error: HTTPException) -> JSONResponse:
    """The refusal as it is sent."""
    code = getattr(error, "code", None) or _CODES.get(error.status_code, "refused")
    return _answer(error.status_code, code, str(error.detail), headers=error.headers)


def handle_failures(app: FastAPI) -> None:
    """Give every failure of `app` the one shape; an unforeseen one tells the client nothing."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path
        if error.status_code == 405:
            allowed = _allowed(app, request)
            error.headers = {"Allow": allowed}
            error.detail = f"{path}: {request.method} is not taken here; use {allowed}"
        elif error.detail == "Not Found":
            error.detail = f"{path}: there is no such route; /docs lists them"
        if _is_disk_full(error.__cause__):  # while the framework put an upload aside
            return as_response(_disk_full())
        return as_response(error)

    @app.exception_handler(OSError)
    @app.exception_handler(sqlite3.OperationalError)
    async def maybe_full(_: Request, error: Exception) -> JSONResponse:
        if _is_disk_full(error):
            return as_response(_disk_full())
        raise error

    @app.exception_handler(RecordError)
    async def misunderstood(_: Request, error: RecordError) -> JSONResponse:
        return _answer(422, "invalid", str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # the input itself is left out: it may be large, and no text at all
        if isinstance(error.body, bytes) and error.body:
            return _answer(
                422, "invalid", "the body was not read as JSON: send Content-Type: application/json"
            )
        details = [_detail(app, request, each) for each in error.errors()]
        # a field that is not known explains best why another is missing
        first = next((d for d in details if "no such field" in d["message"]), details[0])
        return _answer(422, "invalid", f"{first['where']}: {first['message']}", details)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return _answer(500, "internal", "this is a bug of the server; its log has the details")


def _is_disk_full(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        return "full" in str(error)
    return isinstance(error, OSError) and error.errno in _DISK_FULL


def _disk_full() -> Refusal:
    return Refusal(507, "the server's disk is full; delete jobs or free some space, then ask again")


def _detail(app: FastAPI, request: Request, error: Any) -> dict[str, str]:
    where, message = ".".join(map(str, error["loc"])), error["msg"]
    if error["type"] == "extra_forbidden":
        message = _no_such_field(str(error["loc"][-1]), _fields_of_body(app, request))
    elif error["type"] == "json_invalid":
        where, message = "body", f"no JSON at character {error['loc'][-1]}"
    elif error["type"] == "string_pattern_mismatch":
        pattern = error["ctx"]["pattern"]
        message = _PATTERNS.get(pattern, message)
    elif where == "body.file":
        message = "send it as a form: curl -F file=@NAME"
    return {"where": where, "message": message.removeprefix("Value error, ")}


def _no_such_field(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return "there is no such field" + (f"; did you mean {near[0]!r}?" if near else "")


def refuse_unknown(form: Iterable[str], known: Sequence[str]) -> None:
    """Do nothing with a form whose fields are all known; else it is refused as JSON is."""
    for name in form:
        if name not in known:
            raise Refusal(422, f"body.{name}: {_no_such_field(name, known)}")


def close_forms(app: FastAPI) -> None:
    """Say in the document what `refuse_unknown` does: a form has no other fields."""
    for name, schema in app.openapi()["components"]["schemas"].items():
        if name.startswith("Body_"):
            schema["additionalProperties"] = False


def _fields_of_body(app: FastAPI, request: Request) -> list[str]:
    document = app.openapi()
    path = getattr(request.scope.get("route"), "path", "")
    operation = document["paths"].get(path, {}).get(request.method.lower(), {})
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return list(document["components"]["schemas"].get(name, {}).get("properties", {}))


def _allowed(app: FastAPI, request: Request) -> str:
    """All methods of the path; the framework names those of one route only."""
    path = getattr(request.scope.get("route"), "path", "")
    return ", ".join(sorted(method.upper() for method in app.openapi()["paths"].get(path, ())))


def _answer(
    status: int, code: str, message: str, details: Any = (), headers: Any = None
) -> JSONResponse:
    content = {"error": code, "message": message, "details": list(details)}
    return JSONResponse(content, status, headers)


_PATTERNS = {
    r"\S": "a text of blanks; write one or leave it out",
    r"^NCT[0-9]{8}$": "no NCT number, such as NCT90000001",
}


def _no_mere_number(text: str) -> str:
    if is_nct_number(text):
        raise ValueError("the number of a trial, not its text; /v1/predict takes it in nct_ids")
    return text


Text = Annotated[str, Field(pattern=r"\S", description="Any text but blanks.")]
TextToRead = Annotated[Text, AfterValidator(_no_mere_number)]
ModelName = Annotated[str, Field(description="Name of a served model; without it, the first.")]
NctNumber = Annotated[str, Field(pattern=r"^NCT[0-9]{8}$", examples=["NCT90000001"])]
Annotator = Annotated[
    str,
    Field(pattern=r"^[\w.@+-]([\w .@+-]{0,62}[\w.@+-])?$", examples=["ann"], description="A name."),
]
_STUDY: dict[str, Any] = {
    "protocolSection": {
        "identificationModule": {"nctId": "NCT90000001", "briefTitle": "Drug A in asthma"},
        "statusModule": {"overallStatus": "TERMINATED", "whyStopped": "Slow accrual"},
    }
}


PREFERENCE: dict[str, Any] = {"pattern": r"^(f1|(precision|recall)=0?\.\d*[1-9]\d*)?$"}
"""What the document says of it; a wrong one is refused in words of our own."""


class PredictRequest(BaseModel):
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
    model: ModelName = ""
    texts: list[TextToRead] = Field(default=[], min_length=1)
    trials: list[dict[str, Any]] = Field(
        default=[],
        min_length=1,
        description="Studies as version 2 of the registry's API gives them.",
    )
    nct_ids: list[NctNumber] = Field(
        default=[], min_length=1, description="Looked up in the snapshot that the server was given."
    )

    prefer: str = Field(
        default="",
        max_length=40,
        examples=["f1", "precision=0.9", "recall=0.9"],
        description="Cut-offs for a use; empty: the model's own.",
        json_schema_extra=PREFERENCE,
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
    needs_person: bool = Field(
        default=False,
        description="No label, an unsure one, or one that the preference cannot promise.",
    )
    missing: Literal["no_text", "not_in_snapshot", "unreadable"] | None = Field(
        default=None, description="Why there is no prediction."
    )
    message: str | None = Field(default=None, description="What is wrong with an unreadable study.")


class ModelCard(BaseModel):
    """A served model: its task, labels and thresholds."""

    model: str
    digest: str
    engine: str = Field(
        default="", description='What computes the scores and in what precision: "torch fp32".'
    )
    task: str
    kind: Literal["multilabel", "multiclass"]
    labels: list[str]
    thresholds: dict[str, float] | None = Field(
        description="Cut-off of each label; null where the largest probability wins."
    )
    chosen_on: Literal["train", "tune", "test"] | None = Field(
        description="Split that the cut-offs were chosen on; null: they are 0.5."
    )
    prefer: str = Field(default="f1", description="What the cut-offs are good for.")
    uses: list[str] = Field(
        default=[],
        description="What can be asked for as `prefer`; with another share than 0.9 too.",
    )
    calibrated: bool = Field(
        default=False, description="Whether scores are probabilities: calibrated on tune texts."
    )
    description: str = ""


class LabelDefinition(BaseModel):
    """What a label means, for people who give or read it."""

    description: str = ""
    example: str = Field(default="", description="A text that has the label.")


class ModelDescription(ModelCard):
    """A served model with the definitions of its labels."""

    definitions: dict[str, LabelDefinition] = Field(
        description="Of the labels for which the task gives any."
    )


class Models(BaseModel):
    """All served models, the default first."""

    models: list[ModelDescription]


class PredictAnswer(ModelCard):
    """One prediction an item, in the order of the request."""

    predictions: list[Prediction]


class ExplainRequest(BaseModel):
    """One text, and which label of it to explain."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"text": "Slow accrual and lack of funding"}]},
    )
    model: ModelName = ""
    text: TextToRead
    label: str | None = Field(
        default=None, description="Without it, the label with the highest probability."
    )


class ExplainedSpan(BaseModel):
    """Characters `start` to `end` (counted in code points) of the text that was read."""

    start: int
    end: int
    weight: float = Field(description="Share of the label's log-odds; negative: spoke against it.")


class ExplainAnswer(BaseModel):
    """A span a word, in the order of the text."""

    text: str = Field(description="As the model reads it, which spans count in.")
    label: str
    probability: float
    spans: list[ExplainedSpan]


class ServerState(BaseModel):
    """The state of the server."""

    status: Literal["ok", "ready"]


class ServerVersion(BaseModel):
    """The version of trialese that answers, and what is served."""

    version: str
    generation: int | None = Field(
        default=None, description="Of the run that is served; null where single folders are."
    )
    models: dict[str, str] = Field(
        default_factory=dict, description="Digest of each model's files, by its name."
    )


class Failure(BaseModel):
    """Every answer that is no result."""

    error: str = Field(description="A code for programs.", examples=["queue_full"])
    message: str = Field(description="One line for people: what is wrong and what to do.")
    details: list[dict[str, str]] = Field(default=[], description="Where, if in several places.")


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's OpenAPI entry says of the answers with these statuses."""
    return {status: {"model": Failure} for status in statuses}


class SnapshotFacts(BaseModel):
    """The snapshot that is searched, and how far its models have read it."""

    trials: int
    data_timestamp: str | None
    synthetic: bool
    attribution: str
    indexed: bool = Field(description="Whether it can be searched yet.")
    read: dict[str, float] = Field(description="Model -> share of the trials it is done with.")
    failure: str = ""


class QueueFacts(BaseModel):
    """The file of texts that are labelled instead of the snapshot's."""

    name: str
    texts: int
    left_out: dict[str, int] = Field(description="Records without a text, by reason.")


class Guidelines(BaseModel):
    """What annotators are told."""

    html: str = Field(description="Headings, lists, tables and links alone; empty: none given.")


class PageFacts(BaseModel):
    """What is served beside the models: read by the page before anything else."""

    version: str
    ready: bool = Field(description="Whether the models are loaded.")
    snapshot: SnapshotFacts | None
    verdict: str | None = Field(description="Path of the report.")
    labelling: bool = Field(description="Whether answers of annotators are kept.")
    queue: QueueFacts | None = Field(
        description="The user's own texts to label; null: those of the snapshot are."
    )
    guidelines: bool = Field(description="Whether there are guidelines for annotators.")
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
    trials: list[SearchHit]


class NearestRequest(BaseModel):
    """A text to find similar labelled texts of."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "Slow accrual"}]}
    )
    model: ModelName = ""
    text: Text
    most: int = Field(5, ge=1, le=20)


class NearestAnswer(BaseModel):
    """Labelled texts, the nearest first."""

    neighbours: list[Neighbour]
    missing: str = Field("", description="Why there are none to compare with.")


class QueueItem(BaseModel):
    """A text to be labelled, and why now."""

    key: str
    nct_id: str = Field(description="What names the text: an NCT number, or its name in the file.")
    text: str
    texts: int = Field(description="Duplicates that the answer serves, this one included.")
    duplicates: list[str] = Field(description="What names some of them.")
    scores: dict[str, float] = Field(description="What the model predicts: look after answering.")
    second: bool = Field(
        description="Somebody else has labelled it: this answer measures agreement."
    )
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
    reading: bool = Field(description="The model is still reading texts for the queue.")
    disputed: int = Field(description="Texts on which annotators disagree and nobody has decided.")


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

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"annotator": "ann"}]}
    )
    model: ModelName = ""
    annotator: Annotator


class Undone(BaseModel):
    """What became of the latest answer."""

    undone: bool = Field(description="False: there was none.")
    item: QueueItem | None = Field(description="Its text, unless that has left the queue.")
    labels: list[str] = []


class DisputedText(BaseModel):
    """A text on which annotators disagree."""

    key: str
    id: str = Field(description="What names it: an NCT number, or its name in the file.")
    text: str
    texts: int = Field(description="Duplicates that the answers serve, this one included.")
    answers: dict[str, list[str]] = Field(description="Annotator -> labels.")
    decision: Decision | None


class Disagreements(BaseModel):
    """Texts on which annotators disagree, those without a decision first."""

    texts: list[DisputedText]


class DecisionRequest(Answer):
    """The labels that hold for a text on which annotators disagree; null: no decision any more."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"annotator": "eve", "key": "0" * 32, "labels": ["Enrollment"]}]
        },
    )
