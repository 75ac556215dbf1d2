"""Language models compared on parts of the held-out documents: years, areas, shared passages.

A part is any set of documents. Its figures are ratios of sums over its documents, and intervals
are Student's over documents (the linearised variance of a ratio), since some parts have few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trialese.pretrain.heldout import MODEL_PAIRS, read_score
from trialese.records import Interval

__all__ = ["FEWEST_DOCUMENTS", "compare_parts", "ratio_interval"]

FEWEST_DOCUMENTS = 5
"""A part with fewer is only counted."""

_Sums = NDArray[np.float64]


def compare_parts(
    adapter: Path,
    control: Path | None,
    nct_ids: Mapping[str, Sequence[str]],
    parts: Mapping[str, Mapping[str, str]],
) -> dict[str, list[dict[str, Any]]]:
    """Base, control and adapted on the same [MASK] positions, by each division of the documents.

    Args:
        adapter: its artifact, which holds base ("before") and adapted ("after").
        control: its artifact, if there is one.
        nct_ids: of the test blocks of each era, "old" and "new", the documents by number.
        parts: division, such as "year of posting" -> NCT id -> part, such as "2012".

    For each division its parts in alphabetical order, each with `part`, `documents`, `tokens`, and
    unless it has fewer than five documents `top1` and `loss` (nats): by system and, paired, by
    pair such as "adapted - control". A document without a part is in none. Empty where the
    artifacts are older than these figures.
    """
    documents = _sums_by_document(adapter, control, nct_ids)
    found: dict[str, list[dict[str, Any]]] = {}
    for division, part_of in parts.items() if documents else ():
        members: dict[str, list[dict[str, _Sums]]] = {}
        for nct_id, sums in documents.items():
            if nct_id in part_of:
                members.setdefault(part_of[nct_id], []).append(sums)
        found[division] = [_figures(part, members[part]) for part in sorted(members)]
    return {division: rows for division, rows in found.items() if rows}


def _figures(part: str, documents: Sequence[Mapping[str, _Sums]]) -> dict[str, Any]:
    """One part: a system's sums of a document are (loss, hits, tokens)."""
    by_system = {name: np.stack([each[name] for each in documents]) for name in documents[0]}
    tokens = by_system["base"][:, 2]
    row: dict[str, Any] = {"part": part, "documents": len(documents), "tokens": int(tokens.sum())}
    if len(documents) < FEWEST_DOCUMENTS or not tokens.sum():
        return row
    for column, name in enumerate(("loss", "top1")):
        sums = {system: table[:, column] for system, table in by_system.items()}
        sums |= {
            f"{one} - {other}": sums[one] - sums[other]
            for one, other in MODEL_PAIRS
            if one in by_system and other in by_system
        }
        row[name] = {
            what: msgspec.to_builtins(ratio_interval(each, tokens)) for what, each in sums.items()
        }
    return row


def ratio_interval(sums: _Sums, counts: _Sums, *, confidence: float = 0.95) -> Interval:
    """Total of `sums` over total of `counts` (units,) with Student's interval over the units.

    The variance is that of the linearised ratio (Cochran 1977, section 6.4).
    """
    from scipy.special import stdtrit

    units, total = len(sums), counts.sum()
    point = sums.sum() / total
    spread = float(np.sqrt(units / (units - 1) * ((sums - point * counts) ** 2).sum()) / total)
    reach = float(stdtrit(units - 1, (1 + confidence) / 2)) * spread
    return Interval(*(round(float(each), 10) for each in (point, point - reach, point + reach)))


def _sums_by_document(
    adapter: Path, control: Path | None, nct_ids: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, _Sums]]:
    """NCT id -> system -> (loss, hits, tokens) on [MASK], of both eras' test blocks."""
    found: dict[str, dict[str, _Sums]] = {}
    for era, names in nct_ids.items():
        file = f"{era}-test-after.safetensors"
        scores = {
            "base": read_score(adapter / "heldout" / f"{era}-test-before.safetensors"),
            "control": read_score(control / "heldout" / file) if control else None,
            "adapted": read_score(adapter / "heldout" / file),
        }
        known = {system: read for system, read in scores.items() if read is not None}
        if "base" not in known or "adapted" not in known:
            continue
        owner = known["base"][1]
        for system, (score, own) in known.items():
            if not np.array_equal(own, owner):
                continue
            told = score.told
            sums = np.zeros((len(names), 3))
            np.add.at(sums, owner, np.stack([told.loss, told.top1, told.tokens], axis=1))
            for place in np.unique(owner):
                found.setdefault(names[place], {})[system] = sums[place]
    return found
