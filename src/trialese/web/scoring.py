"""`/v1/models`, `/v1/predict` and `/v1/explain`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from trialese.collect.parse import parse_trial
from trialese.collect.snapshot import find_trials
from trialese.collect.source import RawStudy
from trialese.errors import RecordError
from trialese.records import Trial
from trialese.settings import ServeSettings
from trialese.tasks.formats import text_of_trial
from trialese.web.engine import Engine, answer_in_time
from trialese.web.models import Served, ServedModel
from trialese.web.schemas import (
    ExplainAnswer,
    ExplainRequest,
    Models,
    PredictAnswer,
    Prediction,
    PredictRequest,
    Refusal,
    failures,
)

__all__ = ["predict_routes"]


def predict_routes(served: Served, engine: Engine, settings: ServeSettings) -> APIRouter:
    """Routes over the served models."""
    routes = APIRouter(
        prefix="/v1",
        tags=["predict"],
        responses=failures(400, 401, 404, 409, 413, 422, 429, 503, 504),
    )

    @routes.get("/models")
    async def models() -> Models:
        """The served models; the first is the default."""
        served.refuse_unless_ready()
        return Models(models=[model.description() for model in served.models.values()])

    @routes.post("/predict")
    async def predict(asked: PredictRequest, request: Request) -> PredictAnswer:
        """Labels with probabilities, one prediction an item, in the order of the request."""
        model = served.model_named(asked.model)
        decider = model.preferring(asked.prefer)
        items = len(asked.texts) + len(asked.trials) + len(asked.nct_ids)
        if items > settings.request_texts:
            raise Refusal(
                413,
                f"{items:,} items in one request; send at most {settings.request_texts:,}, "
                "or a file to /v1/jobs",
                code="too_many",
            )
        work = _predicted(served, engine, model, decider, asked)
        predictions = await answer_in_time(request, work, seconds=settings.request_seconds)
        return PredictAnswer(**dict(decider.card()), predictions=predictions)

    @routes.post("/explain")
    async def explain(asked: ExplainRequest, request: Request) -> ExplainAnswer:
        """The words that carried a label, with weights; seconds of work for a long text."""
        model = served.model_named(asked.model)
        labels = model.scorer.task.labels
        if asked.label is not None and asked.label not in labels:
            known = ", ".join(labels)
            raise Refusal(404, f"no label {asked.label!r}; there are {known}", code="unknown_label")
        work = engine.run(lambda: _explained(model, asked))
        return await answer_in_time(request, work, seconds=settings.request_seconds)

    return routes


def _explained(model: ServedModel, asked: ExplainRequest) -> ExplainAnswer:
    from trialese.tasks.explain import explain as explain_text  # loads torch

    if model.scorer.preprocessing.clean(asked.text).strip():
        found = explain_text(model.scorer, asked.text, asked.label)
        return ExplainAnswer.model_validate(found, from_attributes=True)
    # nothing but what cleaning takes away, such as control characters: no word carried anything
    scores = dict(
        zip(model.scorer.task.labels, model.scorer.predict_proba([asked.text])[0], strict=True)
    )
    label = asked.label or max(scores, key=scores.__getitem__)
    return ExplainAnswer(text="", label=label, probability=scores[label], spans=[])


async def _predicted(
    served: Served,
    engine: Engine,
    model: ServedModel,
    decider: ServedModel,
    asked: PredictRequest,
) -> list[Prediction]:
    """The predictions: scores by `model`, whose batches all requests share, labels by `decider`."""
    if asked.texts:
        predictions = [_unscored(text) for text in asked.texts]
    else:
        predictions = await asyncio.to_thread(_of_trials, served, model, asked)
    readable = [each for each in predictions if each.missing is None]
    texts = [each.text for each in readable]
    scores = await engine.score(model, texts)
    for each, scored in zip(readable, decider.predictions(texts, scores), strict=True):
        each.labels, each.scores = scored.labels, scored.scores
        each.needs_person = scored.needs_person
    return predictions


def _of_trials(served: Served, model: ServedModel, asked: PredictRequest) -> list[Prediction]:
    """One prediction a trial or NCT id, still without labels."""
    if asked.trials:
        return [_of_study(n, study, model) for n, study in enumerate(asked.trials)]
    if served.snapshot is None:
        raise Refusal(404, "no snapshot was given to look NCT ids up in (--snapshot)")
    found = find_trials(served.snapshot, asked.nct_ids)
    return [
        _of_trial(found[nct_id], model)
        if nct_id in found
        else Prediction(nct_id=nct_id, text="", labels=[], scores={}, missing="not_in_snapshot")
        for nct_id in asked.nct_ids
    ]


def _of_study(position: int, study: dict[str, Any], model: ServedModel) -> Prediction:
    try:
        trial = parse_trial(RawStudy(f"trials[{position}]", "v2", study))
    except RecordError as error:
        prediction = _unscored("")
        prediction.missing, prediction.message = "unreadable", str(error)
        return prediction
    return _of_trial(trial, model)


def _of_trial(trial: Trial, model: ServedModel) -> Prediction:
    text = text_of_trial(trial, model.scorer.preprocessing)
    prediction = _unscored(text)
    prediction.nct_id = trial.nct_id
    prediction.missing = None if text else "no_text"
    return prediction


def _unscored(text: str) -> Prediction:
    return Prediction(text=text, labels=[], scores={})
