"""`/v1/queue`: texts worth a human's label, answers, undo, agreement, the labelled table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from trialese.errors import ArtifactError
from trialese.tasks.task import check_example
from trialese.web.active_learning import Item, Queue
from trialese.web.annotations import Agreement, AnswerLog, agree, as_tsv
from trialese.web.models import ServedModel
from trialese.web.schemas import (
    Annotator,
    Answer,
    QueueAnswer,
    QueueItem,
    Refusal,
    Undo,
    Undone,
    failures,
)
from trialese.web.state import Desk

__all__ = ["labelling_routes"]

_SHOWN_DUPLICATES = 20


def labelling_routes(desk: Desk) -> APIRouter:
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
        asked, log, texts = _opened(desk, model)
        if texts is None:  # soon
            return QueueAnswer(items=[], clusters=0, texts=0, answered={}, served=0)
        standing = log.standing(asked.scorer.task.name)
        answers = [
            event for held in standing.values() for event in held.values() if event.kind == "answer"
        ]
        counts = dict.fromkeys(standing, 0)
        for event in answers:
            counts[event.annotator] += 1
        return QueueAnswer(
            items=[_shown(item, asked) for item in texts.next(standing, annotator, most)],
            clusters=len(texts),
            texts=texts.texts,
            answered=counts,
            served=len({member.id for event in answers for member in event.members}),
        )

    @routes.post("/answers")
    def answer(given: Answer) -> QueueItem:
        """Keep an answer; it is on disk when this returns. Answering again replaces it."""
        asked, log, texts = _opened(desk, given.model)
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
        asked, log, texts = _opened(desk, whose.model)
        with _kept():
            event = log.undo(asked.scorer.task.name, whose.annotator)
        item = texts.item(event.key) if event and texts else None
        if event is None:
            return Undone(undone=False, item=None)
        shown = _shown(item, asked) if item else None
        return Undone(undone=True, item=shown, labels=list(event.labels))

    @routes.get("/agreement")
    def agreement(model: str = "") -> Agreement:
        """How far annotators agree on the texts that two or more of them have answered."""
        asked, log, _ = _opened(desk, model)
        task = asked.scorer.task
        answers = {
            name: {k: frozenset(e.labels) for k, e in held.items() if e.kind == "answer"}
            for name, held in log.standing(task.name).items()
        }
        return agree(answers, task.labels)

    @routes.get(
        "/labelled.tsv",
        response_class=Response,
        responses={200: {"content": {"text/tab-separated-values": {}}}},
    )
    def labelled(
        model: str = "", annotator: Annotated[Annotator | None, Query()] = None
    ) -> Response:
        """A table that `trialese finetune` takes: `tasks.stop_reasons.labelled = "labelled.tsv"`.

        Of one annotator all answers; else those that nobody contradicts (X-Disputed tells how
        many clusters were left out).
        """
        asked, log, _ = _opened(desk, model)
        text, rows, disputed = as_tsv(log.standing(asked.scorer.task.name), annotator)
        headers = {
            "Content-Disposition": 'attachment; filename="labelled.tsv"',
            "X-Rows": str(rows),
            "X-Disputed": str(disputed),
        }
        return Response(text, media_type="text/tab-separated-values", headers=headers)

    return routes


@contextmanager
def _kept() -> Iterator[None]:
    """Whoever answers must know when the disk refused."""
    try:
        yield
    except ArtifactError as error:
        raise Refusal(503, str(error), code="not_kept") from error


def _opened(desk: Desk, name: str) -> tuple[ServedModel, AnswerLog, Queue | None]:
    """The model, the log, and the queue once the model has read something."""
    model = desk.served.model_named(name)
    if desk.log is None:
        raise Refusal(404, "no file to keep answers in; start with --labels FILE.sqlite")
    if desk.served.snapshot is None:
        raise Refusal(404, "no snapshot was given to take texts from (--snapshot)")
    if desk.reader.shelf is None and desk.reader.failure:
        raise Refusal(503, desk.reader.failure)
    return model, desk.log, desk.queue(model)


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
