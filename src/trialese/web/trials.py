"""`/v1/trials` and `/v1/nearest`: the snapshot to search, and labelled texts near a text."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query

from trialese.errors import RegistryError
from trialese.tasks.formats import text_of_trial
from trialese.web.schemas import (
    NctNumber,
    NearestAnswer,
    NearestRequest,
    Refusal,
    TrialAnswer,
    TrialsAnswer,
    failures,
)
from trialese.web.search_index import MOST_SKIPPED, Shelf
from trialese.web.search_index import Query as Search
from trialese.web.state import Desk

__all__ = ["trials_routes"]

_Word = Annotated[str | None, Query(max_length=100)]
_Year = Annotated[int | None, Query(ge=1900, le=9999)]


def trials_routes(desk: Desk) -> APIRouter:
    """Routes over the snapshot and the labelled texts."""
    routes = APIRouter(
        prefix="/v1", tags=["trials"], responses=failures(400, 401, 404, 413, 422, 429, 502, 503)
    )

    @routes.get("/trials")
    def trials(
        words: Annotated[str, Query(max_length=500)] = "",
        phase: _Word = None,
        sex: _Word = None,
        status: _Word = None,
        label: _Word = None,
        year_from: _Year = None,
        year_to: _Year = None,
        model: str = "",
        most: Annotated[int, Query(ge=1, le=100)] = 20,
        skip: Annotated[int, Query(ge=0, le=MOST_SKIPPED)] = 0,
    ) -> TrialsAnswer:
        """Trials that hold all the words and pass every filter, with counts for charts.

        `label` is one that the model predicts; empty, texts to which it gives none.
        """
        shelf = _shelf(desk)
        search = Search(
            words=words,
            phase=phase,
            sex=sex,
            status=status,
            year_from=year_from,
            year_to=year_to,
            label=label,
            model=desk.served.model_named(model).scorer.digest,
        )
        return TrialsAnswer(
            counts=shelf.counts(search), trials=shelf.search(search, most=most, skip=skip)
        )

    @routes.get("/trials/{nct_id}")
    def trial(nct_id: NctNumber, model: str = "") -> TrialAnswer:
        """One trial, from the snapshot or, where that is allowed, from the registry."""
        how = desk.served.model_named(model).scorer.preprocessing
        try:
            found = desk.trial(nct_id)
        except RegistryError as error:
            raise Refusal(502, str(error), code="registry_unreachable") from error
        if found is None:
            where = "not in the snapshot" if desk.served.snapshot else "no snapshot was given"
            cure = "nor does the registry know it"
            if not desk.live:
                cure = "start with --live to have the registry asked"
            raise Refusal(404, f"{nct_id}: {where}; {cure}")
        record, found_in = found
        return TrialAnswer(
            nct_id=record.nct_id,
            found_in=found_in,  # type: ignore[arg-type]
            text=text_of_trial(record, how),
            trial=msgspec.to_builtins(record),
        )

    @routes.post("/nearest")
    def nearest(asked: NearestRequest) -> NearestAnswer:
        """The labelled texts nearest to a text, with their labels and where they come from."""
        model = desk.served.model_named(asked.model)
        neighbours, missing = desk.nearest(model, asked.text, asked.most)
        return NearestAnswer(neighbours=neighbours, missing=missing)

    return routes


def _shelf(desk: Desk) -> Shelf:
    if desk.served.snapshot is None:
        raise Refusal(404, "no snapshot was given to search (--snapshot)")
    if desk.reader.shelf is None:
        why = desk.reader.failure or "the search index is being made; ask again"
        raise Refusal(503, why, retry_seconds=2)
    return desk.reader.shelf
