"""The page and the routes that it needs: its files, the snapshot's trials, the labelling queue."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from importlib.resources import files
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import Response

from trialese import __version__
from trialese.errors import ArtifactError, RegistryError
from trialese.records import ATTRIBUTION
from trialese.settings import CollectSettings, ServeSettings
from trialese.tasks.agreement import AnnotatorAgreement, annotator_agreement
from trialese.tasks.formats import safe_cell, text_of_trial
from trialese.tasks.task import check_example
from trialese.web.active_learning import Item, Queue
from trialese.web.annotations import (
    AnswerLog,
    Decision,
    Disagreement,
    as_tsv,
    disagreements,
    disagreements_tsv,
)
from trialese.web.learning_curve import LearningCurve
from trialese.web.models import Served, ServedModel
from trialese.web.schemas import (
    Annotator,
    Answer,
    DecisionRequest,
    Disagreements,
    DisputedText,
    Guidelines,
    NctNumber,
    NearestAnswer,
    NearestRequest,
    PageFacts,
    QueueAnswer,
    QueueFacts,
    QueueItem,
    Refusal,
    SnapshotFacts,
    TrialAnswer,
    TrialsAnswer,
    Undo,
    Undone,
    failures,
)
from trialese.web.search_index import MOST_SKIPPED, SearchIndex
from trialese.web.search_index import Query as Search
from trialese.web.state import PageState, Score

__all__ = ["labelling_routes", "page_routes", "trials_routes"]

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"
_LOOKUP = CollectSettings(source="registry", retries=1, timeout_seconds=10, pause_seconds=0.5)
_Word = Annotated[str | None, Query(max_length=100)]
_Year = Annotated[int | None, Query(ge=1900, le=9999)]
_SHOWN_DUPLICATES = 20
_MOST_ROWS = 50_000
_COLUMNS = ("nct_id", "title", "labels", "reason", "conditions", "sponsor", "year", "phases", "sex",
            "status")  # fmt: skip


def page_routes(served: Served, settings: ServeSettings, score: Score) -> APIRouter:
    """The page with everything that only it needs; `score` computes when nobody else waits.

    Raises:
        ArtifactError: the file of answers cannot be used.
    """
    state = PageState(served, score, registry=_LOOKUP if settings.live else None)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        state.scoring.start()
        yield
        await asyncio.to_thread(state.close)  # the engine still works: scoring may wait for it

    routes = APIRouter(lifespan=life)
    assets = _assets()
    # A frame cannot send the token, so whoever has it is told a path that nobody can guess.
    report = f"/static/verdict-{secrets.token_urlsafe(24)}.html"

    @routes.get("/", include_in_schema=False)
    def page(request: Request) -> Response:
        return _asset("page.html", assets, request)

    @routes.get("/docs", include_in_schema=False)
    def docs(request: Request) -> Response:
        return _asset("docs.html", assets, request)

    @routes.get("/static/{name}", include_in_schema=False)
    def static(name: str, request: Request) -> Response:
        if served.verdict is not None and f"/static/{name}" == report:
            html = (served.verdict / "report.html").read_bytes()
            return Response(html, media_type=_KINDS[".html"], headers=_report_headers())
        return _asset(name, assets, request)

    @routes.get("/v1/page", tags=["page"])
    def facts() -> PageFacts:
        """What is served beside the models."""
        return PageFacts(
            version=__version__,
            ready=served.ready,
            snapshot=_snapshot_facts(state),
            verdict=report if served.verdict is not None else None,
            labelling=state.log is not None,
            queue=_queue_facts(served),
            guidelines=bool(served.guidelines),
            live=state.live,
        )

    @routes.get("/v1/guidelines", tags=["page"])
    def guidelines() -> Guidelines:
        """What annotators are told: the Markdown file given to `--guidelines`, as HTML."""
        return Guidelines(html=served.guidelines)

    routes.include_router(trials_routes(state))
    routes.include_router(labelling_routes(state))
    return routes


def _snapshot_facts(state: PageState) -> SnapshotFacts | None:
    if state.served.snapshot is None:
        return None
    index, notes = state.scoring.index, state.served.snapshot.manifest.notes
    trials = int(state.served.snapshot.manifest.counts["trials"])
    read = {}
    if index is not None:
        for name, model in state.served.models.items():
            read[name] = index.scored_until(model.scorer.digest) / max(1, index.trials)
    return SnapshotFacts(
        trials=trials,
        data_timestamp=notes.get("data_timestamp"),
        synthetic=bool(notes.get("synthetic")),
        attribution=notes.get("attribution") or ATTRIBUTION,
        indexed=index is not None,
        read=read,
        failure=state.scoring.failure,
    )


def _queue_facts(served: Served) -> QueueFacts | None:
    own = next(iter(served.queue.values()), None)
    if own is None:
        return None
    return QueueFacts(name=own.name, texts=len(own.texts), left_out=own.left_out)


def _assets() -> dict[str, tuple[bytes, str]]:
    """Name -> (bytes, kind) of every file of the page; the palette is the report's."""
    assets = {"palette.css": (files("trialese.verdict") / "palette.css").read_bytes()}
    for file in (files("trialese.web") / "static").iterdir():
        assets[file.name] = file.read_bytes()
    return {
        name: (data, _KINDS["." + name.rpartition(".")[2]])
        for name, data in assets.items()
        if "." + name.rpartition(".")[2] in _KINDS
    }


def _asset(name: str, assets: dict[str, tuple[bytes, str]], request: Request) -> Response:
    if name not in assets:
        raise Refusal(404, "no such file")
    data, kind = assets[name]
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)


def _report_headers() -> dict[str, str]:
    return {"Content-Security-Policy": _REPORT_POLICY, "Cache-Control": "no-store"}


def _asked(
    words: Annotated[str, Query(max_length=500)] = "",
    phase: _Word = None,
    sex: _Word = None,
    status: _Word = None,
    label: _Word = None,
    year_from: _Year = None,
    year_to: _Year = None,
    model: str = "",
) -> Search:
    """The search of a request, with the model's name in place of its digest."""
    return Search(
        words=words, phase=phase, sex=sex, status=status, label=label, model=model,
        year_from=year_from, year_to=year_to,
    )  # fmt: skip


def trials_routes(state: PageState) -> APIRouter:
    """Routes over the snapshot and the labelled texts."""
    routes = APIRouter(
        prefix="/v1", tags=["trials"], responses=failures(400, 401, 404, 413, 422, 429, 502, 503)
    )

    def searched(asked: Search) -> tuple[SearchIndex, Search]:
        digest = state.served.model_named(asked.model).scorer.digest
        return _index_of(state), replace(asked, model=digest)

    @routes.get("/trials")
    def trials(
        asked: Annotated[Search, Depends(_asked)],
        most: Annotated[int, Query(ge=1, le=100)] = 20,
        skip: Annotated[int, Query(ge=0, le=MOST_SKIPPED)] = 0,
    ) -> TrialsAnswer:
        """Trials that hold all the words and pass every filter, with counts for charts.

        An NCT number among the words finds the trial of that number, or of a former one. `label` is
        one that the model predicts; empty, texts to which it gives none.
        """
        index, search = searched(asked)
        return TrialsAnswer(
            counts=index.counts(search), trials=index.search(search, most=most, skip=skip)
        )

    @routes.get(
        "/trials.csv",
        response_class=Response,
        responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    )
    def trials_table(asked: Annotated[Search, Depends(_asked)]) -> Response:
        """The trials of a search as a table, at most 50,000 (X-Left-Out says how many are not)."""
        index, search = searched(asked)
        hits = index.search(search, most=_MOST_ROWS)
        out = io.StringIO(newline="")
        table = csv.writer(out)
        table.writerow(_COLUMNS)
        for hit in hits:
            cells = [getattr(hit, name) for name in _COLUMNS]
            table.writerow(
                ["|".join(c) if isinstance(c, tuple) else safe_cell(str(c or "")) for c in cells]
            )
        headers = {
            "Content-Disposition": 'attachment; filename="trials.csv"',
            "X-Rows": str(len(hits)),
            "X-Left-Out": str(index.counts(search).total - len(hits)),
        }
        return Response("\ufeff" + out.getvalue(), media_type="text/csv", headers=headers)

    @routes.get("/trials/{nct_id}")
    def trial(nct_id: NctNumber, model: str = "") -> TrialAnswer:
        """One trial, from the snapshot or, where that is allowed, from the registry."""
        how = state.served.model_named(model).scorer.preprocessing
        try:
            answer = state.trial(nct_id)
        except RegistryError as error:
            raise Refusal(502, str(error), code="registry_unreachable") from error
        if answer is None:
            where = "not in the snapshot" if state.served.snapshot else "no snapshot was given"
            cure = "nor does the registry know it"
            if not state.live:
                cure = "start with --live to have the registry asked"
            raise Refusal(404, f"{nct_id}: {where}; {cure}")
        record, found_in = answer
        return TrialAnswer(
            nct_id=record.nct_id,
            found_in=found_in,  # type: ignore[arg-type]
            text=text_of_trial(record, how),
            trial=msgspec.to_builtins(record),
        )

    @routes.post("/nearest")
    def nearest(asked: NearestRequest) -> NearestAnswer:
        """The labelled texts nearest to a text, with their labels and where they come from."""
        model = state.served.model_named(asked.model)
        neighbours, missing = state.nearest(model, asked.text, asked.most)
        return NearestAnswer(neighbours=neighbours, missing=missing)

    return routes


def _index_of(state: PageState) -> SearchIndex:
    if state.served.snapshot is None:
        raise Refusal(404, "no snapshot was given to search (--snapshot)")
    if state.scoring.index is None:
        why = state.scoring.failure or "the search index is being made; ask again"
        raise Refusal(503, why, retry_seconds=2)
    return state.scoring.index


def labelling_routes(state: PageState) -> APIRouter:
    """Routes over the queue of each model."""
    routes = APIRouter(
        prefix="/v1/queue",
        tags=["labelling"],
        responses=failures(400, 401, 404, 413, 422, 429, 503),
    )

    @routes.get("")
    def queue(
        annotator: Annotated[Annotator, Query()],
        model: str = "",
        most: Annotated[int, Query(ge=1, le=20)] = 5,
    ) -> QueueAnswer:
        """The texts that the annotator should label next, the one worth most first."""
        asked, log, texts = _opened(state, model)
        task = asked.scorer.task.name
        standing = log.standing(task)
        answers = [
            event for held in standing.values() for event in held.values() if event.kind == "answer"
        ]
        counts = dict.fromkeys(standing, 0)
        for event in answers:
            counts[event.annotator] += 1
        return QueueAnswer(
            items=[_shown(item, asked) for item in texts.next(standing, annotator, most)]
            if texts is not None
            else [],
            clusters=0 if texts is None else len(texts),
            texts=0 if texts is None else texts.texts,
            answered=counts,
            served=len({member.id for event in answers for member in event.members}),
            reading=state.read_share(asked) < 1,
            disputed=as_tsv(standing, decisions=log.decisions(task))[2],
        )

    @routes.post("/answers")
    def answer(given: Answer) -> QueueItem:
        """Keep an answer; it is on disk when this returns. Answering again replaces it."""
        asked, log, texts = _opened(state, given.model)
        item = texts.item(given.key) if texts else None
        if item is None:
            raise Refusal(404, "this text is no longer in the queue; ask for the next ones")
        task = asked.scorer.task
        labels = None
        if given.labels is not None:
            labels = [label for label in task.labels if label in given.labels]
            check_example(task, given.labels, "the answer")
        with _kept():
            log.record(task.name, given.annotator, item.members, labels, key=item.key)
        return _shown(item, asked)

    @routes.post("/undo")
    def undo(whose: Undo) -> Undone:
        """Undo the annotator's latest answer or skip; the text comes back."""
        asked, log, texts = _opened(state, whose.model)
        with _kept():
            event = log.undo(asked.scorer.task.name, whose.annotator)
        item = texts.item(event.key) if event and texts else None
        if event is None:
            return Undone(undone=False, item=None)
        shown = _shown(item, asked) if item else None
        return Undone(undone=True, item=shown, labels=list(event.labels))

    @routes.get("/agreement")
    def agreement(model: str = "") -> AnnotatorAgreement:
        """How far annotators agree on the texts that two or more of them have answered."""
        asked, log, _ = _opened(state, model)
        task = asked.scorer.task
        answers = {
            name: {k: frozenset(e.labels) for k, e in held.items() if e.kind == "answer"}
            for name, held in log.standing(task.name).items()
        }
        return annotator_agreement(answers, task.labels)

    @routes.get(
        "/labelled.tsv",
        response_class=Response,
        responses={200: {"content": {"text/tab-separated-values": {}}}},
    )
    def labelled(
        model: str = "", annotator: Annotated[Annotator | None, Query()] = None
    ) -> Response:
        """A table that `trialese finetune` takes: `tasks.stop_reasons.labelled = "labelled.tsv"`.

        Of one annotator all answers; else those that nobody contradicts, and decisions
        (X-Disputed tells how many clusters were left out).
        """
        asked, log, _ = _opened(state, model)
        task = asked.scorer.task.name
        text, rows, disputed = as_tsv(log.standing(task), annotator, log.decisions(task))
        headers = {
            "Content-Disposition": 'attachment; filename="labelled.tsv"',
            "X-Rows": str(rows),
            "X-Disputed": str(disputed),
        }
        return Response(text, media_type="text/tab-separated-values", headers=headers)

    routes.include_router(_review_routes(state))
    return routes


def _review_routes(state: PageState) -> APIRouter:
    """Routes over all labels so far: the learning curve, and what annotators disagree on."""
    routes = APIRouter()

    def found(task: str, log: AnswerLog) -> list[Disagreement]:
        return disagreements(log.standing(task), log.decisions(task))

    @routes.get("/curve")
    def curve(model: str = "") -> LearningCurve:
        """What the labels so far have brought, and what another hour of labelling would."""
        asked, log, _ = _opened(state, model)
        return state.learning_curve(asked, log)

    @routes.get("/disagreements")
    def disputed(model: str = "") -> Disagreements:
        """The texts on which annotators disagree, with everybody's labels and the decision."""
        asked, log, _ = _opened(state, model)
        return Disagreements(texts=[_disputed(each) for each in found(asked.scorer.task.name, log)])

    @routes.get(
        "/disagreements.tsv",
        response_class=Response,
        responses={200: {"content": {"text/tab-separated-values": {}}}},
    )
    def disputed_table(model: str = "") -> Response:
        """The same as a table: a column of each annotator, the decision, by whom and when."""
        asked, log, _ = _opened(state, model)
        text = disagreements_tsv(found(asked.scorer.task.name, log))
        headers = {"Content-Disposition": 'attachment; filename="disagreements.tsv"'}
        return Response(text, media_type="text/tab-separated-values", headers=headers)

    @routes.post("/decisions")
    def decide(given: DecisionRequest) -> Decision:
        """Decide on a text on which annotators disagree; it is on disk when this returns."""
        asked, log, _ = _opened(state, given.model)
        task = asked.scorer.task
        if given.key not in {each.key for each in found(task.name, log)}:
            raise Refusal(404, "annotators do not disagree on this text; ask for the list again")
        labels = None
        if given.labels is not None:
            labels = [label for label in task.labels if label in given.labels]
            check_example(task, given.labels, "the decision")
        with _kept():
            return log.decide(task.name, given.annotator, given.key, labels)

    return routes


@contextmanager
def _kept() -> Iterator[None]:
    """Whoever answers must know when the disk refused."""
    try:
        yield
    except ArtifactError as error:
        raise Refusal(503, str(error), code="not_kept") from error


def _opened(state: PageState, name: str) -> tuple[ServedModel, AnswerLog, Queue | None]:
    """The model, the log, and the queue once the model has read something."""
    model = state.served.model_named(name)
    if state.log is None:
        raise Refusal(404, "no file to keep answers in; start with --labels FILE.sqlite")
    if state.served.snapshot is None and not state.served.queue:
        raise Refusal(404, "no texts to label; start with --snapshot FOLDER or --queue FILE")
    if state.read_share(model) == 0 and state.scoring.failure:
        raise Refusal(503, state.scoring.failure)
    return model, state.log, state.queue(model)


def _shown(item: Item, model: ServedModel) -> QueueItem:
    return QueueItem(
        key=item.key,
        nct_id=item.members[0].id,
        text=item.text,
        texts=len(item.members),
        duplicates=[member.id for member in item.members[1 : 1 + _SHOWN_DUPLICATES]],
        scores={
            label: round(score, 6)
            for label, score in zip(model.scorer.task.labels, item.scores, strict=True)
        },
        second=item.second,
        uncertainty=round(item.uncertainty, 4),
        novelty=round(item.novelty, 4),
        worth=round(item.worth, 4),
    )


def _disputed(found: Disagreement) -> DisputedText:
    return DisputedText(
        key=found.key,
        id=found.members[0].id,
        text=found.members[0].text,
        texts=len(found.members),
        answers={name: list(labels) for name, labels in found.answers.items()},
        decision=found.decision,
    )
