"""A verdict as text: the summary sentences, the table of the terminal, Markdown."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec

from trialese.records import BASELINES, Difference, Interval, Scores, Verdict
from trialese.verdict.audits import describe_ablation

__all__ = [
    "BEHAVIOUR",
    "COLUMNS",
    "METRICS",
    "UNSHARED",
    "GroupRow",
    "HeadlineRow",
    "LanguageModelRow",
    "behaviour_rows",
    "classification_report",
    "format_markdown",
    "format_table",
    "group_rows",
    "headline_rows",
    "in_brackets",
    "language_model_lines",
    "language_model_rows",
    "part_lines",
    "primary_differences",
    "primary_of",
    "search_budget",
    "short_word",
    "signed",
    "summarise",
    "summarise_language_model",
    "trained_once",
]


COLUMNS = 80
"""Of a terminal: what a summary must fit."""

METRICS = {
    "micro-f1": "micro-F1",
    "macro-f1": "macro-F1",
    "weighted-f1": "weighted F1",
    "samples-f1": "samples F1",
    "accuracy": "accuracy",
    "label_accuracy": "1 − Hamming loss",
    "subset_accuracy": "exact match",
    "average_precision": "average precision (mean over labels)",
    "auroc": "AUROC (mean over labels)",
    "brier": "Brier score",
    "ece": "calibration error",
    "brier_cooled": "Brier score after temperature",
    "ece_cooled": "calibration error after temperature",
    "set_recall": "coverage of label sets",
    "set_labels": "labels in a set",
    "abstained": "share of texts left to a person",
    "answered_f1": "micro-F1 of the other texts",
}
"""How a figure is called in print."""


@dataclass(frozen=True, slots=True)
class HeadlineRow:
    """One system in the first table of a report."""

    system: str
    figure: Interval
    word: str
    """How it compares with the first system; "" for that one itself."""


def primary_of(verdict: Verdict) -> str:
    """The figure that the verdict rests on, such as "macro-f1"."""
    return str(verdict.notes["settings"].get("primary", "macro-f1"))


def headline_rows(verdict: Verdict) -> list[HeadlineRow]:
    """Every system with the primary figure and one word: what the report says first."""
    words = {found.rival: _reverse(found.conclusion) for found in primary_differences(verdict)}
    average = primary_of(verdict).removesuffix("-f1")
    return [
        HeadlineRow(scores.system, scores.averages[average].f1, words.get(scores.system, ""))
        for scores in verdict.scores
    ]


def primary_differences(verdict: Verdict) -> list[Difference]:
    """The first system against every other one in the primary figure.

    A verdict of an earlier version marks none; there it is the same figure of the same system.
    """
    leader, metric = verdict.scores[0].system, primary_of(verdict)
    marked = [found for found in verdict.differences if found.primary]
    return marked or [d for d in verdict.differences if (d.system, d.metric) == (leader, metric)]


def short_word(conclusion: str) -> str:
    """A conclusion as a table says it: better, worse, no difference or too few."""
    known = {"better": "better", "worse": "worse", "too few texts": "too few"}
    return known.get(conclusion, "no difference")


def _reverse(conclusion: str) -> str:
    return {"better": "worse", "worse": "better"}.get(conclusion, short_word(conclusion))


def summarise(verdict: Verdict) -> str:
    """What was found, in a sentence or two: the primary figure, and against whom it is better.

    An input ablation says what it found instead.
    """
    ablation = describe_ablation(verdict)
    leader, primary = verdict.scores[0], primary_of(verdict)
    failed = sum(not audit.passed for audit in verdict.audits)
    found_by = f" {failed} of {len(verdict.audits)} audits found something." if failed else ""
    if ablation:
        return f"{verdict.task}, {verdict.rows:,} texts. {ablation}{found_by}"
    figure = leader.averages[primary.removesuffix("-f1")].f1
    by_conclusion: dict[str, list[Difference]] = {}
    for found in primary_differences(verdict):
        by_conclusion.setdefault(found.conclusion, []).append(found)
    parts = [
        f"{_CLAUSES.get(conclusion, _CLAUSES[''])} {_listed(map(_against, pairs))}"
        for conclusion, pairs in sorted(by_conclusion.items())
    ]
    return (
        f"On {verdict.rows:,} {verdict.task} texts, {leader.system} {'; '.join(parts)}. "
        f"It reaches {METRICS[primary]} {figure.point:.4f} {in_brackets(figure)}."
        f"{_run_caveat(verdict)}{found_by}"
    )


def _run_caveat(verdict: Verdict) -> str:
    """What one training run each leaves open: the default spread over runs, in the primary."""
    if not trained_once(verdict):
        return ""
    spread = float(verdict.notes["settings"].get("seed_spread", 0.0))
    open_to = f"; a difference of {2 * spread:.2f} may come from the run" if spread else ""
    return f" One training run each{open_to}."


_CLAUSES = {
    "better": "is better than",
    "worse": "is worse than",
    "too few texts": "was tested on too few texts to be compared with",
    "": "shows no significant difference from",
}


def search_budget(verdict: Verdict) -> dict[str, str]:
    """System -> how many settings were tried for it, on what, and which were taken.

    {} for predictions that do not tell.
    """
    told = verdict.notes.get("search", {})
    return {
        scores.system: _budget(told.get(scores.system, {})) for scores in verdict.scores if told
    }


def _budget(found: Mapping[str, Any]) -> str:
    if members := found.get("members"):
        return "; ".join(f"of {name}: {_budget(each)}" for name, each in members.items())
    tried, folds = found.get("settings", 1), found.get("inner_folds", 0)
    if folds:
        chosen = Counter(
            ", ".join(f"{name} {value}" for name, value in each.items())
            for each in found["chosen"].values()
        )
        taken = "; ".join(
            f"{what} ({times} {'fold' if times == 1 else 'folds'})"
            for what, times in chosen.most_common()
        )
        return (
            f"{tried} settings on {folds} inner folds of each fold, {found['fits']} fits; "
            f"taken: {taken}"
        )
    if "epochs" in found:
        return f"1 setting, the best of up to {found['epochs']} epochs on tune"
    return f"{tried} settings, the best on tune in each fit" if tried > 1 else "nothing to choose"


def trained_once(verdict: Verdict) -> bool:
    """Whether every system was trained once, so that the spread over runs is unknown."""
    models = [scores.system for scores in verdict.scores if scores.system not in BASELINES]
    return bool(models) and len(verdict.notes["seeds"]) == 1


def _against(found: Difference) -> str:
    low, point, high = found.interval.low, found.interval.point, found.interval.high
    if found.rival in BASELINES and found.conclusion == "better":
        return f"{found.rival} ({point:+.2f})"
    said = f"{found.rival} ({point:+.2f} [{low:+.2f}, {high:+.2f}]"
    if found.detectable is not None and found.conclusion not in ("better", "worse"):
        said += f"; {found.detectable:.2f} would be found four times in five"
    return f"{said})"


def _listed(items: Iterable[str]) -> str:
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def format_table(verdict: Verdict) -> str:
    """The verdict for a terminal: the primary figure first, then F1 by label of every system.

    Of systems that do not fit beside one another in 80 columns, the rest follow below.
    """
    out = [
        f"{verdict.task}: {_setting(verdict)}",
        *([_SYNTHETIC] if verdict.notes.get("synthetic") else []),
        *_models(verdict),
        "",
        *_headline_lines(verdict),
        "",
        *textwrap.wrap(summarise(verdict), COLUMNS),
        *_label_lines(verdict),
    ]
    further = [d for d in verdict.differences if d.metric in METRICS and not d.primary]
    if further:
        once = "; one training run each" if trained_once(verdict) else ""
        out += ["", f"further differences, exploratory{once}:"]
        out += [f"{each.system} - {each.rival}, {_phrase(each)}" for each in further]
    told, rows = behaviour_rows(verdict)
    for system, cell in zip(told, rows[-1][1] if rows else (), strict=True):
        out += ["", f"behavioural tests passed: {system} {cell}"]
    out.append("")
    out += [f"audit: {audit.name}: {audit.finding}" for audit in verdict.audits if not audit.passed]
    return "\n".join([*out, verdict.signature])


def _label_lines(verdict: Verdict) -> Iterator[str]:
    """F1 of every system by label, then the averages; as many systems beside one another as fit."""
    labels, rest = verdict.scores[0].labels, list(verdict.scores)
    left = min(34, max(len(name) for name in [*(label.label for label in labels), "weighted avg"]))
    while rest:
        widths = [2 + max(len(each.system), 6) for each in rest]
        fit = max(1, sum(width <= COLUMNS - left - 9 for width in accumulate(widths)))
        part, rest = rest[:fit], rest[fit:]

        def line(name: str, cells: Iterable[str], last: str = "", widths: Any = widths) -> str:
            row = "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=False))
            head = name.ljust(left) if len(name) <= left else f"{name}\n{'':<{left}}"
            return f"{head}{row}  {last:>7}".rstrip()

        yield f"\n{line('f1-score', (scores.system for scores in part), 'support')}"
        for place, label in enumerate(labels):
            cells = (f"{scores.labels[place].f1.point:.4f}" for scores in part)
            yield line(label.label, cells, str(label.support))
        yield ""
        total = str(sum(label.support for label in labels))
        for average in verdict.scores[0].averages:
            found = [scores.averages[average].f1 for scores in part]
            yield line(f"{average} avg", (f"{f1.point:.4f}" for f1 in found), total)
            yield line(f"  {_level(verdict)} low", (f"{f1.low:.4f}" for f1 in found))
            yield line(f"  {_level(verdict)} high", (f"{f1.high:.4f}" for f1 in found))


def _headline_lines(verdict: Verdict) -> Iterator[str]:
    rows, level = headline_rows(verdict), _level(verdict)
    width = max(len("system"), *(len(row.system) for row in rows))
    name, against = METRICS[primary_of(verdict)], f"against {rows[0].system}"
    yield f"{'system':<{width}}  {name:<8}  {level + ' interval':<14}  {against}"
    for row in rows:
        f1 = row.figure
        bounds = f"{f1.low:.2f} to {f1.high:.2f}"
        yield f"{row.system:<{width}}  {f1.point:<8.2f}  {bounds:<14}  {row.word}".rstrip()


def format_markdown(verdicts: Sequence[Verdict], context: Mapping[str, Any] | None = None) -> str:
    """All verdicts as Markdown: the primary figures, a sentence a task, then everything else.

    What the new text did to the language model comes second, where `context` holds it.
    """
    model = language_model_lines(context or {})
    head = [f"# {model[0]}\n", *(f"- {line}" for line in model[1:]), ""] if model else []
    head += part_lines(context or {})
    rest = (line for verdict in verdicts for line in _markdown(verdict))
    return "\n".join([*_headlines(verdicts), *head, *rest]) + "\n"


def _headlines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "# Verdict\n"
    yield f"| task | system | primary figure | {_level(verdicts[0])} interval | against the first |"
    yield "|---|---|---|---|---|"
    for verdict in verdicts:
        name = METRICS[primary_of(verdict)]
        for row in headline_rows(verdict):
            f1 = row.figure
            yield (
                f"| {verdict.task} | {row.system} | {name} {f1.point:.2f} "
                f"| {f1.low:.2f} to {f1.high:.2f} | {row.word} |"
            )
    yield ""
    for verdict in verdicts:
        yield f"{summarise(verdict)}\n"


@dataclass(frozen=True, slots=True)
class LanguageModelRow:
    """One comparison of two language models on held-out trials of one era."""

    pair: str
    era: str
    top1: Interval
    loss: Interval
    documents: int
    unshared: bool = False
    """Of the documents alone that share less than half of their passages with training text."""


def language_model_rows(context: Mapping[str, Any]) -> list[LanguageModelRow]:
    """The comparisons in a report's context, adapted - control first; new trials, then old.

    After each, where it was measured, the same without documents that training text repeats.
    """
    found = context.get("language_model") or {}
    parts = (context.get("language_model_parts") or {}).get("passages in training text", ())
    unshared = {row["part"].removesuffix(" trials, under half"): row for row in parts}
    rows = []
    for pair in ("adapted - control", "adapted - base"):
        for era in found:
            for row, alone in ((found[era], False), (unshared.get(era, {}), True)):
                if pair in row.get("top1", {}):
                    top1, loss = (
                        msgspec.convert(row[name][pair], Interval) for name in ("top1", "loss")
                    )
                    rows.append(LanguageModelRow(pair, era, top1, loss, row["documents"], alone))
    return rows


def part_lines(context: Mapping[str, Any]) -> Iterator[str]:
    """Markdown tables of the language models' accuracy by parts of the held-out documents."""
    for division, rows in (context.get("language_model_parts") or {}).items():
        shown = [row for row in rows if "top1" in row]
        if not shown:
            continue
        names = list(shown[0]["top1"])
        yield f"## Top-1 accuracy on [MASK] by {division}\n"
        yield f"| {division} | {' | '.join(names)} | documents |"
        yield f"|---|{'---|' * len(names)}--:|"
        for row in shown:
            cells = []
            for name in names:
                figure = msgspec.convert(row["top1"][name], Interval)
                cells.append(
                    signed(figure) if " - " in name else f"{figure.point:.4f} {in_brackets(figure)}"
                )
            yield f"| {row['part']} | {' | '.join(cells)} | {row['documents']:,} |"
        few = [f"{row['part']} ({row['documents']})" for row in rows if "top1" not in row]
        yield f"\nToo few documents: {', '.join(few)}.\n" if few else ""


def summarise_language_model(context: Mapping[str, Any]) -> str:
    """What the new text brought, in a sentence or two; "" where it was not measured.

    At equal compute where there is a control, else against the base, with what that leaves open.
    """
    rows = language_model_rows(context)
    if not rows:
        return ""
    pair = rows[0].pair
    said = []
    for row in (row for row in rows if row.pair == pair and not row.unshared):
        word = "no sure difference"
        if row.top1.low > 0 or row.top1.high < 0:
            word = "better" if row.top1.low > 0 else "worse"
        said.append(f"on {row.era} trials {word}, top-1 on [MASK] {signed(row.top1)}")
    if pair == "adapted - control":
        return f"At equal compute, adapted against control: {'; '.join(said)}."
    return f"Adapted against base: {'; '.join(said)}. {NO_CONTROL}"


def language_model_lines(context: Mapping[str, Any]) -> list[str]:
    """What the new text did to the masked-LM, in sentences; nothing where it was not measured."""
    rows = language_model_rows(context)
    lines = [summarise_language_model(context)] if rows else []
    lines += [
        f"{row.pair}, {row.era} trials ({row.documents:,} held-out documents"
        f"{UNSHARED if row.unshared else ''}): top-1 on [MASK] "
        f"{signed(row.top1)}, loss {signed(row.loss)}"
        for row in rows
    ]
    return ["language model", *lines] if lines else []


UNSHARED = " with under half of their 8-grams in training text"

BEHAVIOUR = (
    "Short texts by hand that were not learnt from, passed by the classifier for use at its own "
    "cut-offs: number, share and Wilson's 95 % interval."
)

NO_CONTROL = (
    "No control was trained (pretrain.control = false), so what is due to the new text and what "
    "to more training cannot be told apart."
)


def in_brackets(interval: Interval) -> str:
    """Such as "[0.7123, 0.7345]"."""
    return f"[{interval.low:.4f}, {interval.high:.4f}]"


def signed(interval: Interval) -> str:
    """Such as "+0.0123 [-0.0010, +0.0256]"."""
    return f"{interval.point:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _phrase(difference: Difference) -> str:
    name = METRICS.get(difference.metric, difference.metric)
    return f"{name} {signed(difference.interval)}, {difference.conclusion}"


def _level(verdict: Verdict) -> str:
    return f"{verdict.notes['settings']['confidence']:.0%}"


_SYNTHETIC = "synthetic trials: no evidence about real ones"


def _setting(verdict: Verdict) -> str:
    folds, seeds = verdict.notes["folds"], len(verdict.notes["seeds"])
    return (
        f"{verdict.rows:,} test texts in {verdict.clusters:,} clusters of duplicates, "
        f"{folds} {'fold' if folds == 1 else 'folds'}, {seeds} {'seed' if seeds == 1 else 'seeds'}"
    )


def _models(verdict: Verdict) -> list[str]:
    """What each language model is: a new head or an adapted base is said with every result."""
    return [f"{system}: {what}" for system, what in verdict.notes.get("models", {}).items()]


def _markdown(verdict: Verdict) -> Iterator[str]:
    yield f"# {verdict.task}\n"
    synthetic = f"; {_SYNTHETIC}" if verdict.notes.get("synthetic") else ""
    yield (
        f"{_setting(verdict)}{synthetic}; {_level(verdict)} intervals. "
        f"Signature: `{verdict.signature}`\n"
    )
    yield from (f"- {model}" for model in _models(verdict))
    yield ""
    for scores in verdict.scores:
        yield from classification_report(scores, verdict)
    yield from _groups(verdict)
    yield from _slices(verdict)
    yield from _behaviour(verdict)
    yield "## Paired differences\n"
    once = "One training run each. " if trained_once(verdict) else ""
    yield f"{once}P-values of the primary figure are adjusted together; the rest is exploratory.\n"
    yield "| system | rival | figure | difference | interval | p | conclusion | |"
    yield "|---|---|---|--:|---|--:|---|---|"
    for found in verdict.differences:
        yield (
            f"| {found.system} | {found.rival} | {METRICS.get(found.metric, found.metric)} "
            f"| {found.interval.point:+.4f} "
            f"| [{found.interval.low:+.4f}, {found.interval.high:+.4f}] "
            f"| {found.p_value:.4f} | {found.conclusion} "
            f"| {'primary' if found.primary else 'exploratory'} |"
        )
    if budget := search_budget(verdict):
        yield "\n## Search budget\n"
        yield "What was tried on texts that are not tested, before the scores were known.\n"
        yield from (f"- {system}: {what}" for system, what in budget.items())
    yield "\n## Audits\n"
    for audit in verdict.audits:
        yield f"- {'passed' if audit.passed else '**look**'}: {audit.name}: {audit.finding}"
    yield ""


def _groups(verdict: Verdict) -> Iterator[str]:
    """The second view, by coarser groups, where the task has one."""
    found = verdict.notes.get("groups")
    if not found:
        return
    yield "## By coarser groups\n"
    yield f"| F1 | {' | '.join(found['scores'])} | support |"
    yield f"|---|{'--:|' * (len(found['scores']) + 1)}"
    for row in group_rows(verdict):
        cells = [f"{f1.point:.4f} {in_brackets(f1)}" for f1 in row.cells]
        yield f"| {row.name} | {' | '.join(cells)} | {row.support} |"
    yield ""


def _slices(verdict: Verdict) -> Iterator[str]:
    """Scores of parts of the texts, such as those with several labels."""
    for name, parts in verdict.notes.get("slices", {}).items():
        systems = [scores.system for scores in verdict.scores]
        yield f"## By {name}\n"
        yield "Micro-F1 with its interval; share of true labels found; share of texts with all.\n"
        yield f"| {name} | {' | '.join(systems)} | texts |"
        yield f"|---|{'---|' * len(systems)}--:|"
        for row in parts:
            cells = []
            for system in systems:
                found = row["scores"][system]
                f1 = msgspec.convert(found["micro-f1"], Interval)
                recall, whole = found["recall"]["point"], found["all_found"]["point"]
                cells.append(f"{f1.point:.4f} {in_brackets(f1)}; {recall:.2f}; {whole:.2f}")
            yield f"| {row['part']} | {' | '.join(cells)} | {row['texts']} |"
        yield ""


def behaviour_rows(verdict: Verdict) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(systems, each group of behavioural tests with what each of them passed), "all" last.

    A cell is such as "19 of 24, 0.79 [0.60, 0.91]"; groups are those of any of the systems.
    """
    told: dict[str, list[dict[str, Any]]] = verdict.notes.get("behaviour", {})
    names = dict.fromkeys(row["group"] for rows in told.values() for row in rows)
    names = {**{name: None for name in names if name != "all"}, **({"all": None} if told else {})}
    cells = {
        (system, row["group"]): f"{row['passed']} of {row['texts']}, {row['rate']['point']:.2f} "
        f"[{row['rate']['low']:.2f}, {row['rate']['high']:.2f}]"
        for system, rows in told.items()
        for row in rows
    }
    return list(told), [(name, [cells.get((s, name), "") for s in told]) for name in names]


def _behaviour(verdict: Verdict) -> Iterator[str]:
    """How the classifiers for use did on texts by hand, which none of them has learnt from."""
    systems, rows = behaviour_rows(verdict)
    if not rows:
        return
    yield "## Behavioural tests\n"
    yield f"{BEHAVIOUR}\n"
    yield f"| group | {' | '.join(systems)} |"
    yield f"|---|{'---|' * len(systems)}"
    yield from (f"| {name} | {' | '.join(cells)} |" for name, cells in rows)
    yield ""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group, or an average over them: its labels, each system's F1, and its texts."""

    name: str
    members: tuple[str, ...]
    cells: tuple[Interval, ...]
    support: int


def group_rows(verdict: Verdict) -> list[GroupRow]:
    """The second view as lines of a table, in the order of the verdict's systems."""
    found = verdict.notes.get("groups") or {"members": {}, "scores": {}}
    columns = list(found["scores"].values())
    rows = [
        GroupRow(
            name=name,
            members=tuple(members),
            cells=tuple(msgspec.convert(c["labels"][place]["f1"], Interval) for c in columns),
            support=columns[0]["labels"][place]["support"],
        )
        for place, (name, members) in enumerate(found["members"].items())
    ]
    total = sum(row.support for row in rows)
    for average in columns[0]["averages"] if columns else ():
        cells = tuple(msgspec.convert(c["averages"][average]["f1"], Interval) for c in columns)
        rows.append(GroupRow(f"{average} avg", (), cells, total))
    return rows


def classification_report(scores: Scores, verdict: Verdict) -> Iterator[str]:
    """The prior art's table: scikit-learn's classification report, four decimals, intervals."""
    yield f"## {scores.system}\n"
    yield f"| | precision | recall | f1-score | {_level(verdict)} interval | support |"
    yield "|---|--:|--:|--:|---|--:|"
    for label in scores.labels:
        yield (
            f"| {label.label} | {label.precision:.4f} | {label.recall:.4f} | {label.f1.point:.4f} "
            f"| {in_brackets(label.f1)} | {label.support} |"
        )
    total = sum(label.support for label in scores.labels)
    for name, average in scores.averages.items():
        yield (
            f"| {name} avg | {average.precision.point:.4f} | {average.recall.point:.4f} "
            f"| {average.f1.point:.4f} | {in_brackets(average.f1)} | {total} |"
        )
    yield ""
    for name, found in scores.extra.items():
        yield f"- {METRICS[name]}: {found.point:.4f} {in_brackets(found)}"
    yield ""
