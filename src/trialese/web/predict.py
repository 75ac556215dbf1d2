"""`/v1/models` and `/v1/predict`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from trialese.collect import RawStudy, find_trials, parse_trial
from trialese.records import Trial
from trialese.settings import ServeSettings
from trialese.tasks.predicting import text_of_trial
from trialese.web.failures import Refusal
from trialese.web.schemas import Failure, Models, PredictAnswer, Prediction, PredictRequest
from trialese.web.served import Served, ServedModel

__all__ = ["model_named", "predict_routes"]

FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure} for status in (401, 404, 413, 422, 429, 503, 504)
}


def predict_routes(served: Served, settings: ServeSettings) -> APIRouter:
    """Routes over the served models."""
    routes = APIRouter(prefix="/v1", tags=["predict"])

    @routes.get("/models")
    async def models() -> Models:
        """The served models; the first is the default."""
        _refuse_unless_ready(served)
        return Models(models=[model.card() for model in served.models.values()])

    @routes.post("/predict", responses=FAILURES)
    async def predict(asked: PredictRequest) -> PredictAnswer:
        """Labels with probabilities, one prediction an item, in the order of the request."""
        model = model_named(served, asked.model)
        items = len(asked.texts) + len(asked.trials) + len(asked.nct_ids)
        if items > settings.request_texts:
            raise Refusal(
                413,
                f"{items:,} items in one request; send at most {settings.request_texts:,}, "
                "or a file to /v1/jobs",
                code="too_many",
            )
        predictions = await asyncio.to_thread(_unscored, served, model, asked)
        readable = [each for each in predictions if each.missing is None]
        texts = [each.text for each in readable]
        scores = await asyncio.to_thread(model.scorer.predict, texts)
        for each, scored in zip(readable, model.predictions(texts, scores), strict=True):
            each.labels, each.scores = scored.labels, scored.scores
        return PredictAnswer(**dict(model.card()), predictions=predictions)

    return routes


def model_named(served: Served, name: str) -> ServedModel:
    """The model called `name`, or the first.

    Raises:
        Refusal: 503 while models are loading, 404 for an unknown name.
    """
    _refuse_unless_ready(served)
    if not name:
        return next(iter(served.models.values()))
    if name not in served.models:
        known = ", ".join(served.models)
        raise Refusal(404, f"no model {name!r} here; there are {known}", code="unknown_model")
    return served.models[name]


def _refuse_unless_ready(served: Served) -> None:
    if not served.ready:
        raise Refusal(503, "the models are still loading; ask again", retry_seconds=2)


def _unscored(served: Served, model: ServedModel, asked: PredictRequest) -> list[Prediction]:
    """One prediction an item, still without labels."""
    if asked.texts:
        return [Prediction(text=text, labels=[], scores={}) for text in asked.texts]
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
    return Prediction(
        nct_id=trial.nct_id,
        text=text,
        labels=[],
        scores={},
        missing=None if text else "no_text",
    )
