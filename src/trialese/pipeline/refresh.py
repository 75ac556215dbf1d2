"""Keeping a finished run up to date: collect what changed, say so, decide, score it, promote.

Everything is made in a hidden work folder and put together as the next generation; only then does
`current.json` point to it. So whatever interrupts a refresh, the generation in use stays whole,
and the same command goes on from what is finished and ends in the same bytes.
"""

from __future__ import annotations

import base64
import datetime
import http.client
import ipaddress
import logging
import shutil
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec

from trialese.artifacts import (
    as_settings,
    digest_of,
    is_complete,
    read_manifest,
    remove_at_once,
    write_artifact,
    write_bytes,
)
from trialese.collect.diff import differ
from trialese.collect.increment import collect_increment, merge_increment
from trialese.collect.snapshot import open_snapshot
from trialese.corpus.store import open_corpus
from trialese.errors import ArtifactError, RecipeError
from trialese.generations import (
    KIND,
    Generation,
    current_generation,
    generation_bytes,
    generation_folder,
    hold_run,
    link_tree,
    next_number,
    open_generation,
    promote,
    prune,
)
from trialese.pipeline.challenge import adapt, challenge
from trialese.pipeline.changes import (
    CHANGES_NAME,
    PAGE_NAME,
    TrialChange,
    find_changes,
    refuse_loss,
    render_page,
    write_feeds,
)
from trialese.pipeline.decision import (
    DECISION_NAME,
    TRAINING_NAME,
    Decision,
    decide,
    last_tried,
    read_decision,
    read_learnt,
    read_training,
    weigh,
)
from trialese.progress import Progress, silent
from trialese.recipe import Recipe, RefreshSettings
from trialese.records import Snapshot
from trialese.tasks.history import extend_history

__all__ = ["Outcome", "check_webhook", "log_outcome", "notify", "read_run_recipe", "refresh"]

LOG_NAME = "refresh.jsonl"
_SYSTEMS = ("adapted", "base", "tfidf")
"""Of each task's classifiers in a run, the first that there is is kept up to date."""
_WEBHOOK_SECONDS = 20.0

logger = logging.getLogger(__name__)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a refresh did: a line of `refresh.jsonl`, and what `--json` and a webhook tell."""

    run: str
    outcome: Literal["nothing to do", "promoted", "refused"]
    """`refused`: the new data are in use, the challenger is not."""
    generation: int
    """The one in use now."""
    data_timestamp: str | None
    new: int = 0
    changed: int = 0
    gone: int = 0
    trials: int = 0
    scored: int = 0
    """Texts scored anew, over all tasks."""
    decision: str = ""
    reason: str = ""
    report: str = ""
    """The generation's page."""
    new_bytes: int = 0
    """What the generation costs on disk."""
    seconds: float = 0.0

    @property
    def status(self) -> int:
        """The exit status: 0, or 3 where a challenger was refused."""
        return 3 if self.outcome == "refused" else 0

    def as_line(self) -> str:
        """The summary in one line."""
        if self.outcome == "nothing to do":
            why = f" ({self.decision}: {self.reason})" if self.reason else ""
            return f"{self.run}: nothing to do; generation {self.generation} stays in use{why}"
        return (
            f"{self.run}: generation {self.generation} is in use: {self.new:,} new, "
            f"{self.changed:,} changed, {self.gone:,} gone; {self.scored:,} texts scored, "
            f"{self.new_bytes / 1e6:,.1f} MB, {self.seconds:,.0f} s; {self.decision}: {self.reason}"
        )


def read_run_recipe(run: Path) -> Recipe:
    """The recipe that a finished run was made from.

    Raises:
        ArtifactError: the folder holds no finished run.
    """
    file = run / "recipe.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=Recipe)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(
            f"{run}: no finished run (no recipe.json); give the folder that `trialese run` filled"
        ) from error
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ArtifactError(f"{file}: {error}; `trialese run` writes it anew") from error


def refresh(
    run: Path,
    recipe: Recipe,
    *,
    force: bool = False,
    never: bool = False,
    keep: int | None = None,
    answers: Mapping[str, Path] = MappingProxyType({}),
    launcher: str = "",
    progress: Progress = silent,
) -> Outcome:
    """Make and promote the next generation of the run, if there is anything new.

    The first refresh takes over what the run made, as generation 1. `force` adapts the language
    model whatever the figures say, `never` never does. `answers` are tables of annotators' answers,
    by task; `launcher` starts the training elsewhere (see `challenge.adapt`).

    Raises:
        RegistryError, RecordError: the source gives no answer, or something that cannot be read.
        ArtifactError: something on disk is damaged or full, or another refresh is under way. The
            generation in use stays, and the same command goes on from what is finished.
        RecipeError: there is nothing to keep up with.
    """
    begun = time.monotonic()
    if recipe.collect.source == "none":
        raise RecipeError(f"{run}: its recipe collects no trials, so there is nothing to refresh")
    with hold_run(run):
        work = run / "generations" / ".work"
        work.mkdir(exist_ok=True)
        made = _Refresh(run, recipe, work, progress, force, never, answers, launcher)
        outcome = made.run_all()
        prune(run, keep or recipe.refresh.keep)
        write_feeds(run)
        seconds = round(time.monotonic() - begun, 1)
        outcome = msgspec.structs.replace(outcome, seconds=seconds)
        log_outcome(run, msgspec.to_builtins(outcome))
        remove_at_once(work)
    return outcome


def log_outcome(run: Path, told: Mapping[str, Any]) -> None:
    """Add a line to `refresh.jsonl`, with the time of this machine.

    Raises:
        OSError: the disk refused.
    """
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = msgspec.json.encode({"at": at, **told}) + b"\n"
    with (run / LOG_NAME).open("ab") as file:
        file.write(line)


@dataclass(slots=True)
class _Parts:
    """What the next generation is put together from: folders, and what is written anew."""

    snapshot: Path
    language_model: Path | None
    control: Path | None
    classifiers: dict[str, Path]
    training: bytes
    decision: Decision
    changes: list[TrialChange]
    listed: str | None


@dataclass(slots=True)
class _Refresh:
    """One refresh of one run, which is held."""

    run: Path
    recipe: Recipe
    work: Path
    progress: Progress
    force: bool
    never: bool
    answers: Mapping[str, Path]
    launcher: str

    @property
    def settings(self) -> RefreshSettings:
        return self.recipe.refresh

    def run_all(self) -> Outcome:
        """Take over the run if need be, then look for news."""
        current = current_generation(self.run)
        promoting = self.work / "promoting"
        if current and promoting.is_file() and promoting.read_text() == current.manifest.digest:
            return self._outcome(current)  # killed when all but the clearing up was done
        origin = self._origin()
        adopted = None
        if current is None or current.manifest.notes["origin"] != origin:
            adopted = self._adopt(current, origin)
            current = adopted
        parts = self._next(current)
        if isinstance(parts, Decision):
            if adopted is not None:
                return self._outcome(adopted)
            return Outcome(
                run=str(self.run),
                outcome="nothing to do",
                generation=current.number,
                data_timestamp=current.manifest.notes["data_timestamp"],
                trials=current.manifest.notes["trials"],
                decision=parts.action if self.force else "",
                reason=parts.reason if self.force else "",
            )
        made = self._assemble(current, parts, current.manifest.notes["origin"])
        write_bytes(promoting, made.manifest.digest.encode())
        return self._outcome(self._promote(made))

    def _outcome(self, made: Generation) -> Outcome:
        """What was done: the generation is in use, its challenger perhaps refused."""
        notes = made.manifest.notes
        counts = notes["changes"]
        decision = read_decision(made)
        return Outcome(
            run=str(self.run),
            outcome="refused" if decision.action == "refused" else "promoted",
            generation=made.number,
            data_timestamp=notes["data_timestamp"],
            new=counts["new"],
            changed=counts["changed"],
            gone=counts["gone"],
            trials=notes["trials"],
            scored=sum(each["scored"] for each in notes["tasks"].values()),
            decision=decision.action,
            reason=decision.reason,
            report=str(made.path / PAGE_NAME),
            new_bytes=generation_bytes(self.run)[made.number],
        )

    def _own_classifiers(self) -> dict[str, Path]:
        """Task -> the classifier of the run that is kept up to date."""
        found = {}
        for task in self.recipe.tasks.names:
            folders = (self.run / task / system for system in _SYSTEMS)
            folder = next((each for each in folders if (each / "model").is_dir()), None)
            if folder is None or not is_complete(folder):
                raise ArtifactError(
                    f"{self.run}: no finished classifier of {task} (of a language model or tfidf); "
                    "finish the run with `trialese run`"
                )
            found[task] = folder
        return found

    def _own_models(self) -> tuple[Path | None, Path | None]:
        """The run's language model, and what saw as much text without the new."""
        made = [self.run / name for name in ("adapter", "control", "base")]
        adapter, control, base = (each if is_complete(each) else None for each in made)
        return (adapter, control or base) if adapter else (base, None)

    def _origin(self) -> str:
        """Names what `trialese run` made, so that a run made again is noticed."""
        model, control = self._own_models()
        folders = [self.run / "snapshot", model, control, *self._own_classifiers().values()]
        return digest_of([read_manifest(each).digest for each in folders if each is not None])

    def _adopt(self, before: Generation | None, origin: str) -> Generation:
        """The generation made of what the run made: nothing is changed, all trials are scored."""
        model, control = self._own_models()
        corpus = self.run / "corpus"
        training = b'{"until":"","ids":[]}'
        if model is not None:
            training = msgspec.json.encode(read_training(open_corpus(corpus)))
        why = "what `trialese run` made is taken over as it is"
        decision = Decision(
            action="adopted",
            outcome="The run was taken over.",
            reason=why if before is None else f"the run was made again: {why}",
            rule=(),
        )
        parts = _Parts(
            snapshot=self.run / "snapshot",
            language_model=model,
            control=control,
            classifiers=self._own_classifiers(),
            training=training,
            decision=decision,
            changes=[],
            listed=None,
        )
        made = self._assemble(None, parts, origin)
        return self._promote(made) if before is None else made  # else once the source answers

    def _next(self, current: Generation) -> _Parts | Decision:
        """What the next generation is made from; where there is nothing to do, what decided."""
        older = open_snapshot(current.snapshot)
        notes = current.manifest.notes
        increment = collect_increment(
            self.recipe.collect,
            older,
            self.work,
            overlap_days=self.settings.overlap_days,
            list_from=self._listing_due(notes),
            progress=self.progress,
        )
        if current_generation(self.run) != current:
            self._promote(current)
        snapshot, changes = older, []
        if increment.collected or increment.gone:
            snapshot = merge_increment(
                self.recipe.collect, older, increment, self.work / "snapshot"
            )
            changes = find_changes(snapshot, older, next_number(self.run))
            refuse_loss(snapshot, older, changes)
        listed = increment.data_timestamp if increment.listed else notes["listed"]
        moved = bool(changes) or differ(snapshot, older)
        before = read_decision(current)
        pending = before.action == "never" and not self.never
        if not (moved or pending or self.force):
            return before
        decision = decide(
            current,
            snapshot,
            self.settings,
            force=self.force,
            never=self.never,
            tried_at=last_tried(current, before),
            render=self.recipe.corpus.render,
            progress=self.progress,
        )
        if not moved and decision.action != "adapt":
            return decision
        parts = _Parts(
            snapshot=snapshot.path,
            language_model=current.language_model,
            control=current.control,
            classifiers=current.classifiers,
            training=msgspec.json.encode(read_learnt(current)),
            decision=decision,
            changes=changes,
            listed=listed,
        )
        if decision.action == "adapt":
            self._challenge(current, snapshot, parts)
        return parts

    def _challenge(self, current: Generation, snapshot: Snapshot, parts: _Parts) -> None:
        """Let a challenger take over the parts, if it may."""
        from trialese.pretrain.heldout import compare_models

        training = read_learnt(current)
        challenger = adapt(
            current,
            snapshot,
            self.recipe,
            training,
            self.work,
            launcher=self.launcher,
            progress=self.progress,
        )
        made, comparisons = challenge(
            current,
            challenger,
            snapshot,
            self.recipe,
            training,
            self.work,
            answers=self.answers,
            labelled_folder=self.run / "labelled",
            progress=self.progress,
        )
        told = compare_models(challenger.language_model, challenger.control)
        parts.decision = weigh(parts.decision, comparisons, told, self.settings)
        if parts.decision.action == "promoted":
            parts.language_model, parts.control = challenger.language_model, challenger.control
            parts.classifiers = {**parts.classifiers, **made}
            parts.training = msgspec.json.encode(challenger.training)

    def _listing_due(self, notes: Mapping[str, Any]) -> str | None:
        """The day from which on all numbers are to be listed again."""
        with suppress(TypeError, ValueError):
            last = datetime.date.fromisoformat(notes["listed"][:10])
            return (last + datetime.timedelta(days=self.settings.listing_days)).isoformat()
        return None

    def _assemble(self, parent: Generation | None, parts: _Parts, origin: str) -> Generation:
        """The next generation, whole, but not in use."""
        number = next_number(self.run)
        snapshot = open_snapshot(parts.snapshot)
        scored = {
            task: self._score(task, model, snapshot, parent, parts, number)
            for task, model in parts.classifiers.items()
        }
        path = generation_folder(self.run, number)
        inputs = {"snapshot": snapshot.manifest.digest}
        if parent is not None:
            inputs["parent"] = parent.manifest.digest
        folders = {"language-model": parts.language_model, "control": parts.control}
        folders |= {f"classifiers/{task}": model for task, model in parts.classifiers.items()}
        made_from = {name: each for name, each in folders.items() if each is not None}
        inputs |= {name: read_manifest(each).digest for name, each in made_from.items()}
        settings = as_settings(self.settings)
        with write_artifact(path, kind=KIND, settings=settings, inputs=inputs) as draft:
            link_tree(parts.snapshot, draft.folder / "snapshot")
            for name, folder in made_from.items():
                link_tree(folder, draft.folder / name)
            for task in parts.classifiers:  # of an earlier recipe others may lie there
                link_tree(self.work / "predictions" / task, draft.folder / "predictions" / task)
            (draft.folder / TRAINING_NAME).write_bytes(parts.training)
            lines = msgspec.json.Encoder().encode_lines(parts.changes)
            (draft.folder / CHANGES_NAME).write_bytes(lines)
            decision = msgspec.json.format(msgspec.json.encode(parts.decision), indent=2) + b"\n"
            (draft.folder / DECISION_NAME).write_bytes(decision)
            draft.notes.update(self._notes(number, parent, snapshot, parts, scored, origin))
            page = render_page(parts.changes, draft.notes, msgspec.to_builtins(parts.decision))
            (draft.folder / PAGE_NAME).write_text(page, encoding="utf-8")
        made = open_generation(self.run, number)
        if parent is not None:
            try:
                parent.refuse_altered(made)
            except ArtifactError:
                shutil.rmtree(path)
                raise
        return made

    def _notes(
        self,
        number: int,
        parent: Generation | None,
        snapshot: Snapshot,
        parts: _Parts,
        scored: Mapping[str, int],
        origin: str,
    ) -> dict[str, Any]:
        timestamp = snapshot.manifest.notes.get("data_timestamp")
        kinds = [change.what for change in parts.changes]
        return {
            "run": self.recipe.name,
            "number": number,
            "lineage": [*(parent.lineage if parent else ()), number],
            "origin": origin,
            "data_timestamp": timestamp,
            "listed": timestamp if parent is None else parts.listed,
            "trials": snapshot.manifest.counts["trials"],
            "synthetic": bool(snapshot.manifest.notes.get("synthetic")),
            "changes": {what: kinds.count(what) for what in ("new", "changed", "gone")},
            "decision": parts.decision.action,
            "tasks": {
                task: {"model": read_manifest(model).digest, "scored": scored[task]}
                for task, model in parts.classifiers.items()
            },
        }

    def _score(
        self,
        task: str,
        model: Path,
        snapshot: Snapshot,
        parent: Generation | None,
        parts: _Parts,
        number: int,
    ) -> int:
        changed = [change.nct_id for change in parts.changes if change.what != "gone"]
        gone = [change.nct_id for change in parts.changes if change.what == "gone"]
        gone += [change.formerly for change in parts.changes if change.formerly]
        return extend_history(
            model,
            snapshot,
            self.work / "predictions" / task,
            generation=number,
            work=self.work / "scoring",
            before=parent.predictions(task) if parent else (),
            older=open_snapshot(parent.snapshot) if parent else None,
            changed=changed,
            gone=gone,
            progress=self.progress,
        )

    def _promote(self, made: Generation) -> Generation:
        promote(self.run, made)
        logger.info("%s is in use", made.path)
        return made


def check_webhook(url: str) -> None:
    """Refuse an address that would be told in the clear, beyond this machine.

    Raises:
        RecipeError: neither https nor http on loopback; the address itself is not repeated, since
            whoever reads a log could use it.
    """
    wrong = "--notify: no address; give one such as https://example.org/hook"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port  # which also reads it
    except ValueError as error:
        raise RecipeError(wrong) from error
    if port == 0 or any(not "!" <= letter <= "~" for letter in url):  # others are %-encoded
        raise RecipeError(wrong)
    loopback = host == "localhost"
    with suppress(ValueError):
        loopback = loopback or ipaddress.ip_address(host).is_loopback
    if (parts.scheme == "https" and host) or (parts.scheme == "http" and loopback):
        return
    raise RecipeError(f"{wrong}, or http on this machine, not {parts.scheme}://{host}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def notify(url: str, payload: Mapping[str, Any]) -> bool:
    """POST the payload as JSON; whether it was taken. A failure is a warning, no error.

    A name and password in the address are sent as such, and nothing of it but its host is ever
    logged. Redirects are not followed: they could lead anywhere.
    """
    check_webhook(url)
    parts = urlsplit(url)
    headers = {"Content-Type": "application/json"}
    login, _, place = parts.netloc.rpartition("@")
    if login:
        told = base64.b64encode(unquote_to_bytes(login)).decode()
        headers["Authorization"] = f"Basic {told}"
    request = urllib.request.Request(
        parts._replace(netloc=place, fragment="").geturl(),
        data=msgspec.json.encode(dict(payload)),
        headers=headers,
        method="POST",
    )
    handlers: list[Any] = [_NoRedirect]
    if parts.scheme != "https":  # in the clear: to this machine, past any proxy
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    failures: list[object] = [f"no answer in {_WEBHOOK_SECONDS:g} s"]

    def ask() -> None:
        try:
            with opener.open(request, timeout=_WEBHOOK_SECONDS):
                failures.clear()
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures[:] = [error]

    asking = threading.Thread(target=ask, daemon=True)  # an answer that drips has no end of its own
    asking.start()
    asking.join(_WEBHOOK_SECONDS)
    for why in failures:
        logger.warning("--notify %s://%s/...: not told (%s)", parts.scheme, place, why)
    return not failures
