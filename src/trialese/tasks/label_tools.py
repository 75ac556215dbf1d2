"""The labels of a row, however a person, a spreadsheet or an annotation tool wrote them down.

Understood are cells with one label or several (`A|B`, `A;B`, `A, B`, `['A', 'B']`, lists), a 0/1
column a label, and rows of Label Studio, Prodigy, Argilla, doccano and spaCy. A blank is not
labelled; that no label fits has words of its own (`NONE_WORDS`), or an empty list.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trialese.collect.delimited import LABEL_COLUMNS, find_column, known_columns, plain_name

__all__ = [
    "BLANK",
    "NONE_WORDS",
    "BadLabelError",
    "LabelNames",
    "Unlabelled",
    "columns_of_labels",
    "is_binary_answer",
    "label_columns",
    "labels_in",
    "labels_of_columns",
    "labels_of_tool",
    "split_labels",
]

NONE_WORDS = ("none", "none of these", "none of the above", "no label", "no labels", "[]")
"""What a cell says when somebody looked and no label fits; a label of that name comes first."""
_BLANK_WORDS = frozenset({"", "nan", "null", "<na>", "#n/a"})
"""What programs write into an empty cell."""
_SEPARATORS = ("|", ";", ",", "#", "\n")
"""Between labels in a cell, tried in this order; doccano's CSV has `#`."""
_SMALL_WORDS = frozenset({"or", "and"})
_BINARY = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
_PREFIXES = ("", "label", "labels", "is")
_RESPONSES = ".responses"
_ANSWERS = ("accept", "reject", "ignore")


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """A row without an answer, and the reason to count it by."""

    reason: str


BLANK = Unlabelled("not_labelled")


class BadLabelError(ValueError):
    """Labels that cannot be understood: what, and what to do."""


class LabelNames:
    """A task's labels as people write them: `Insufficient enrollment`, `COVID-19`."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self._by_key: dict[str, str | None] = {}
        for key in (self._plain, self._sorted):
            found = [(key(label), label) for label in labels]
            keys = [each for each, _ in found]
            for each, label in found:
                # Two labels that differ only in signs are told apart by writing them in full.
                self._by_key.setdefault(each, label if keys.count(each) == 1 else None)

    def known(self, text: str) -> str | None:
        """The label that the text stands for; None if for none."""
        if text in self.labels:
            return text
        return self._by_key.get(self._plain(text)) or self._by_key.get(self._sorted(text))

    @staticmethod
    def _words(text: str) -> list[str]:
        return [
            word for word in re.findall(r"[^\W_]+", text.casefold()) if word not in _SMALL_WORDS
        ]

    def _plain(self, text: str) -> str:
        return "".join(self._words(text)) or f"={text}"

    def _sorted(self, text: str) -> str:
        return " ".join(sorted(self._words(text))) or f"={text}"


def split_labels(value: Any, names: LabelNames | None = None) -> tuple[str, ...]:
    """The labels in a cell: a list of them, or several in a text; each once, in their order.

    With `names`, a text is divided at the first separator that leaves labels alone, and labels are
    those of the task wherever one is meant; without, or where none does, at `|`.
    """
    parts = value if isinstance(value, (list, tuple)) else _divided(str(value or ""), names)
    tidy = (part.strip() for part in map(str, parts))
    found = ((names.known(part) or part) if names else part for part in tidy if part)
    return tuple(dict.fromkeys(found))


def _divided(text: str, names: LabelNames | None) -> Sequence[Any]:
    text = text.strip()
    if text.startswith(("[", "(", "{")) and text.endswith(("]", ")", "}")):
        if _NUMPY.fullmatch(text):  # to Python, neighbouring texts are one
            return [one or other for one, other in re.findall(_QUOTED, text)]
        for read in _READERS:
            try:
                found = read(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(found, (list, tuple, set)):
                return sorted(map(str, found)) if isinstance(found, set) else list(found)
    if names is not None and names.known(text) is None:
        for separator in _SEPARATORS:
            parts = [part for part in map(str.strip, text.split(separator)) if part]
            if parts and all(names.known(part) for part in parts):
                return parts
    elif names is not None:
        return [text]
    return text.split("|")


_QUOTED = r"'([^']*)'|\"([^\"]*)\""
_NUMPY = re.compile(rf"\[\s*(?:{_QUOTED})(?:\s+(?:{_QUOTED}))+\s*\]")
_READERS: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)


def labels_in(value: Any, names: LabelNames) -> tuple[str, ...] | Unlabelled:
    """The labels in a cell of any kind; () where it says that none fits.

    Raises:
        BadLabelError: neither text nor a list, nor an answer as a label tool writes it.
    """
    if _is_blank(value):
        return BLANK
    if isinstance(value, str):
        return _labels_in_text(value.strip(), names)
    if isinstance(value, Mapping):
        inner = next((value[key] for key in ("choices", "value", "label") if key in value), value)
        if inner is value:
            raise BadLabelError(f"{str(dict(value))[:40]!r} is no label; correct the row")
        return labels_in(inner, names)
    if not isinstance(value, (list, tuple)):
        return split_labels(str(value), names)
    if value and all(isinstance(each, (Mapping, list, tuple)) for each in value):
        return _agreed([_response(each, names) for each in value])
    return split_labels([each for each in value if not _is_blank(each)], names)


def _labels_in_text(text: str, names: LabelNames) -> tuple[str, ...] | Unlabelled:
    if names.known(text) is None:
        if text.casefold() in NONE_WORDS:
            return ()
        if text.startswith(("{", "[{")):
            try:
                return labels_in(json.loads(text), names)
            except (ValueError, RecursionError) as error:
                raise BadLabelError(f"{text[:40]!r} is no label; correct the row") from error
    return split_labels(text, names)


def _is_blank(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() in _BLANK_WORDS
    return value is None or (isinstance(value, float) and math.isnan(value))


def _response(each: Any, names: LabelNames) -> tuple[str, ...] | Unlabelled:
    status = each.get("status", "submitted") if isinstance(each, Mapping) else "submitted"
    return BLANK if status not in ("submitted", None) else labels_in(each, names)


def _agreed(answers: Sequence[tuple[str, ...] | Unlabelled]) -> tuple[str, ...] | Unlabelled:
    """What several people answered, if it is the same."""
    given = [answer for answer in answers if not isinstance(answer, Unlabelled)]
    if not given:
        return next((answer for answer in answers if isinstance(answer, Unlabelled)), BLANK)
    if len({frozenset(answer) for answer in given}) > 1:
        return Unlabelled("annotators_disagree")
    return given[0]


def labels_of_columns(
    row: Mapping[str, Any], columns: Mapping[str, str]
) -> tuple[str, ...] | Unlabelled:
    """The labels whose column (by label) holds 1; a row of blanks alone is not labelled.

    Raises:
        BadLabelError: a cell that is neither 0 nor 1.
    """
    if all(_is_blank(row.get(column)) for column in columns.values()):
        return BLANK
    labels = []
    for label, column in columns.items():
        value = row.get(column)
        given = False if _is_blank(value) else _BINARY.get(str(value).strip().lower())
        if given is None:
            raise BadLabelError(f"{label} is {value!r}; write 0 or 1")
        if given:
            labels.append(label)
    return tuple(labels)


def columns_of_labels(names: Sequence[str], labels: LabelNames) -> dict[str, str]:
    """Label -> the column that is named after it, for those that have one."""
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(plain_name(name), name)
    found: dict[str, str] = {}
    for label in labels.labels:
        if label in names:
            found[label] = label
            continue
        keys = [plain_name(f"{prefix} {label}") for prefix in _PREFIXES]
        column = next((plain[key] for key in keys if key in plain), None)
        if column is None:
            column = next((name for name in names if labels.known(name) == label), None)
        if column is not None:
            found[label] = column
    return found


def label_columns(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns with a known name of labels; without those of mere numbers, which are the codes
    of the labels in another."""
    known = known_columns(names, LABEL_COLUMNS)
    named = [name for name in known if not all(_is_code(row.get(name)) for row in rows)]
    return named or known


def _is_code(value: Any) -> bool:
    return _is_blank(value) or re.fullmatch(r"\s*[-+]?[0-9]+(\.0)?\s*", str(value)) is not None


def is_binary_answer(row: Mapping[str, Any]) -> bool:
    """Whether this is Prodigy's answer to the question whether a text has one label."""
    return row.get("answer") in _ANSWERS and "accept" not in row and "label" in row


def labels_of_tool(
    row: Mapping[str, Any], names: LabelNames
) -> tuple[str, ...] | Unlabelled | None:
    """The labels of a row that an annotation tool wrote; None if it has no tool's shape.

    Raises:
        BadLabelError: an answer that cannot be understood.
    """
    if row.get("answer") in _ANSWERS and ("accept" in row or "label" in row):
        return _of_prodigy(row, names)
    given = next((row[key] for key in ("annotations", "completions") if key in row), None)
    if isinstance(given, list) and isinstance(row.get("data"), Mapping):
        return _of_label_studio(given, names)
    if isinstance(row.get("cats"), Mapping):  # spaCy
        return split_labels([name for name, is_it in row["cats"].items() if is_it >= 0.5], names)
    if (answers := _argilla_answers(row)) is not None:
        return _of_argilla(answers, row.get("status"), names)
    column = find_column(list(row), LABEL_COLUMNS)
    if column is not None and row[column] == [] and "Comments" in row:
        return BLANK  # doccano writes an empty list for what nobody has labelled yet
    return None


def _argilla_answers(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Question -> answers, as Argilla's records, its tables or its first version have them."""
    if isinstance(row.get("responses"), Mapping):
        return dict(row["responses"])
    asked = [name.removesuffix(_RESPONSES) for name in row if name.endswith(_RESPONSES)]
    if asked:
        return {
            question: _with_status(
                row[f"{question}{_RESPONSES}"], row.get(f"{question}{_RESPONSES}.status")
            )
            for question in asked
        }
    if "annotation" in row and "status" in row:
        return {"annotation": row["annotation"]}
    return None


def _of_prodigy(row: Mapping[str, Any], names: LabelNames) -> tuple[str, ...] | Unlabelled:
    if row["answer"] != "accept":
        return Unlabelled("ignored" if row["answer"] == "ignore" else "rejected")
    if "accept" not in row:
        return labels_in(row["label"], names)
    options = {str(each.get("id")): str(each.get("text", "")) for each in row.get("options") or ()}
    chosen = [str(each) for each in row["accept"] or ()]
    meant = (each if names.known(each) else options.get(each) or each for each in chosen)
    return split_labels(list(meant), names)


def _of_label_studio(
    annotations: Sequence[Mapping[str, Any]], names: LabelNames
) -> tuple[str, ...] | Unlabelled:
    done = [each for each in annotations if not each.get("was_cancelled")]
    if not done:
        return Unlabelled("skipped") if annotations else BLANK
    truth = [each for each in done if each.get("ground_truth")]
    answers: list[tuple[str, ...] | Unlabelled] = []
    for each in truth or done:
        values = [result.get("value") for result in each.get("result") or ()]
        chosen = [value for value in values if isinstance(value, Mapping) and "choices" in value]
        found = [label for value in chosen for label in value["choices"]]
        answers.append(split_labels(found, names) if found else BLANK)
    return _agreed(answers)


def _with_status(value: Any, status: Any) -> list[Mapping[str, Any]]:
    """Argilla's columns of answers and of their states, as its records have them."""
    answers = value if isinstance(value, list) else [] if _is_blank(value) else [value]
    states = status if isinstance(status, list) else [status] * len(answers)
    states = [*states, *["submitted"] * (len(answers) - len(states))]
    return [
        {"value": answer, "status": state or "submitted"}
        for answer, state in zip(answers, states, strict=False)
    ]


def _of_argilla(
    responses: Mapping[str, Any], status: Any, names: LabelNames
) -> tuple[str, ...] | Unlabelled:
    if str(status or "").casefold() == "discarded":
        return Unlabelled("discarded")
    given = [answers for answers in responses.values() if answers]
    if len(given) > 1:
        raise BadLabelError(
            f"answers to several questions ({', '.join(responses)}); keep the one of this task"
        )
    return labels_in(given[0], names) if given else BLANK
