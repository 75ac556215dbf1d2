"""`/v1/models`, `/v1/predict` and `/v1/explain`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from trialese.collect import RawStudy, find_trials, parse_trial
from trialese.records import Trial
from trialese.settings import ServeSettings
from trialese.tasks import explain as explain_text
from trialese.tasks.predicting import text_of_trial
from trialese.web.answering import answer_in_time
from trialese.web.engine import Engine
from trialese.web.failures import Refusal
from trialese.web.schemas import (
    ExplainRequest,
    Explanation,
    Failure,
    Models,
    PredictAnswer,
    Prediction,
    PredictRequest,
)
from trialese.web.served import Served, ServedModel

__all__ = ["predict_routes"]

_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure} for status in (401, 404, 413, 422, 429, 503, 504)
}


def predict_routes(served: Served, engine: Engine, settings: ServeSettings) -> APIRouter:
    """Routes over the served models."""
    routes = APIRouter(prefix="/v1", tags=["predict"], responses=_FAILURES)

    @routes.get("/models")
    async def models() -> Models:
        """The served models; the first is the default."""
        served.refuse_unless_ready()
        return Models(models=[model.card() for model in served.models.values()])

    @routes.post("/predict")
    async def predict(asked: PredictRequest, request: Request) -> PredictAnswer:
        """Labels with probabilities, one prediction an item, in the order of the request."""
        model = served.model_named(asked.model)
        items = len(asked.texts) + len(asked.trials) + len(asked.nct_ids)
        if items > settings.request_texts:
            raise Refusal(
                413,
                f"{items:,} items in one request; send at most {settings.request_texts:,}, "
                "or a file to /v1/jobs",
                code="too_many",
            )
        work = _predicted(served, engine, model, asked)
        predictions = await answer_in_time(request, work, seconds=settings.request_seconds)
        return PredictAnswer(**dict(model.card()), predictions=predictions)

    @routes.post("/explain")
    async def explain(asked: ExplainRequest, request: Request) -> Explanation:
        """The words that carried a label, with weights; seconds of work for a long text."""
        model = served.model_named(asked.model)
        work = engine.run(lambda: explain_text(model.scorer, asked.text, asked.label))
        found = await answer_in_time(request, work, seconds=settings.request_seconds)
        return Explanation.model_validate(found, from_attributes=True)

    return routes


async def _predicted(
    served: Served, engine: Engine, model: ServedModel, asked: PredictRequest
) -> list[Prediction]:
    if asked.texts:
        predictions = [_unscored(text) for text in asked.texts]
    else:
        predictions = await asyncio.to_thread(_of_trials, served, model, asked)
    readable = [each for each in predictions if each.missing is None]
    texts = [each.text for each in readable]
    scores = await engine.score(model, texts)
    for each, scored in zip(readable, model.predictions(texts, scores), strict=True):
        each.labels, each.scores = scored.labels, scored.scores
    return predictions


def _of_trials(served: Served, model: ServedModel, asked: PredictRequest) -> list[Prediction]:
    """One prediction a trial or NCT id, still without labels."""
    if asked.trials:
        studies = enumerate(asked.trials)
        trials = [parse_trial(RawStudy(f"trials[{n}]", "v2", study)) for n, study in studies]
        return [_of_trial(trial, model) for trial in trials]
    if served.snapshot is None:
        raise Refusal(404, "no snapshot was given to look NCT ids up in (--snapshot)")
    found = find_trials(served.snapshot, asked.nct_ids)
    return [
        _of_trial(found[nct_id], model)
        if nct_id in found
        else Prediction(nct_id=nct_id, text="", labels=[], scores={}, missing="not_in_snapshot")
        for nct_id in asked.nct_ids
    ]


def _of_trial(trial: Trial, model: ServedModel) -> Prediction:
    text = text_of_trial(trial, model.scorer.preprocessing)
    prediction = _unscored(text)
    prediction.nct_id = trial.nct_id
    prediction.missing = None if text else "no_text"
    return prediction


def _unscored(text: str) -> Prediction:
    return Prediction(text=text, labels=[], scores={})
