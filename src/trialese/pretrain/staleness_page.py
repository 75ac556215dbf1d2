"""Staleness as text for a terminal, as one self-contained page with its picture, and as JSON."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from trialese.artifacts import write_bytes
from trialese.pretrain.staleness import CAVEAT, Effect, QuarterRow, Staleness, quarter_of

__all__ = ["as_dict", "as_table", "write_page"]

_BLUE, _BROWN, _GREEN = "#0b6e99", "#b5651d", "#4a7c3a"

_HEADS = (
    "quarter", "trials", "read", "loss", "95 % interval", "top-1", "pseudo-perplexity",
    "pieces a word",
)  # fmt: skip

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.advice { font-size: 1.15rem; border-left: 4px solid #0b6e99; padding: .5rem 1rem; }
.about { color: #555; }
.caveat { background: #f6f1e7; padding: .5rem 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: auto; } .wide { overflow-x: auto; }
"""


def write_page(staleness: Staleness, folder: Path, *, reader: str, snapshot: str) -> None:
    """Write `staleness.html` (picture inside, nothing loaded from elsewhere) and `.json`.

    `reader` and `snapshot` name what was looked at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model": reader, "snapshot": snapshot}
    encoded = msgspec.json.format(msgspec.json.encode(about | as_dict(staleness)), indent=2)
    write_bytes(folder / "staleness.json", encoded + b"\n")
    write_bytes(folder / "staleness.html", _page(staleness, reader, snapshot).encode())


def _page(staleness: Staleness, reader: str, snapshot: str) -> str:
    read = sum(row.sampled for row in staleness.quarters)
    about = (
        f"{reader} reading {snapshot}; trained until {staleness.trained_until}; {read:,} trials "
        f"read, {staleness.left_out:,} left out because the model learnt from them."
    )
    quarters = _table(
        _HEADS,
        [
            (
                row.quarter, f"{row.trials:,}", row.sampled, f"{row.loss.point:.3f}",
                f"{row.loss.low:.3f} to {row.loss.high:.3f}", f"{row.top1:.3f}",
                f"{row.pseudo_perplexity:.1f}", f"{row.pieces_per_word:.2f}",
            )
            for row in staleness.quarters
        ],
    )  # fmt: skip
    rising = _table(
        ("word", "documents before", "documents since", "z", "pieces"),
        [
            (term.word, term.documents_before, term.documents_since, f"{term.z:.1f}", term.pieces)
            for term in staleness.rising
        ],
    )
    broken = _table(
        ("word", "documents since", "pieces"),
        [(term.word, term.documents_since, term.pieces) for term in staleness.broken],
    )
    marked = [(staleness.effect, "end of training")] if staleness.effect else []
    marked += [(each, "false border") for each in staleness.false_borders]
    effects = _table(
        ("border after", "what", "nats a token", "95 % interval", "trials before", "trials since"),
        [
            (
                each.border, what, f"{each.loss.point:+.3f}",
                f"{each.loss.low:+.3f} to {each.loss.high:+.3f}", each.before, each.since,
            )
            for each, what in marked
        ],
    )  # fmt: skip
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>When to adapt again</title><style>{_STYLE}</style></head><body><main>
<h1>When to adapt again</h1>
<p class="advice">{escape(staleness.advice)}</p>
<p class="caveat"><strong>What this cannot tell.</strong> {escape(CAVEAT)}</p>
<p class="about">{escape(about)}</p>
{_picture(staleness)}
<p class="about">Loss and accuracy: whole documents, 15 % of their tokens hidden, told of those that
read [MASK]; intervals from resampling trials. Pseudo-perplexity: PLL-word-l2r (Kauf and Ivanova
2023) over the first 48 tokens of some trials. The dashed line is the end of training.
{escape(_method(staleness))}</p>
<h2>The effect of the end of training, and of borders where nothing happened</h2>{effects}
<h2>Words that rose since</h2>{rising}
<h2>New words that the vocabulary breaks up most</h2>{broken}
<h2>Quarters</h2>{quarters}
</main></body></html>
"""


def _method(staleness: Staleness) -> str:
    if staleness.reference:
        return (
            f"Effect: what the model loses from before to since, less what {staleness.reference} "
            "loses on the same trials."
        )
    return (
        "Effect: each later trial's loss less that of the three earlier ones with the nearest "
        "conditions and key words."
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    made = [f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows]
    if not made:
        return "<p>none</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(made)}</table></div>'


def _picture(staleness: Staleness) -> str:
    """An <svg>: loss with intervals, pseudo-perplexity and pieces a word against time."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = staleness.quarters
    years = [_year(row.quarter) for row in rows]
    with rc_context({"svg.hashsalt": "trialese", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 9), layout="constrained")
        FigureCanvasAgg(figure)
        effect, loss, perplexity, pieces = figure.subplots(
            4, 1, sharex=True, height_ratios=(1.6, 1.6, 1, 1)
        )
        _draw_effects(effect, staleness)
        for x, row in zip(years, rows, strict=True):
            loss.plot([x, x], [row.loss.low, row.loss.high], color=_BLUE, alpha=0.35, linewidth=2)
        sizes = [8 + 40 * row.sampled / max(r.sampled for r in rows) for row in rows]
        loss.scatter(years, [row.loss.point for row in rows], s=sizes, color=_BLUE, zorder=3)
        loss.set_ylabel("loss, nats a hidden token")
        perplexity.plot(years, [row.pseudo_perplexity for row in rows], "o", color=_BROWN, ms=4)
        perplexity.set_yscale("log")
        perplexity.set_ylabel("pseudo-perplexity")
        pieces.plot(years, [row.pieces_per_word for row in rows], "o", color=_GREEN, ms=4)
        pieces.set_ylabel("pieces a word")
        pieces.set_xlabel("first posted (larger dots: more trials read)")
        _draw_means(loss, rows, staleness.trained_until)
        border = quarter_of(staleness.trained_until)
        for axes in (effect, loss, perplexity, pieces):
            axes.grid(alpha=0.3)
            if border:
                axes.axvline(_year(border) + 0.125, color="#555", linestyle="--", linewidth=1)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    drawn = buffer.getvalue().decode()
    return drawn[drawn.index("<svg") :]


def _draw_effects(axes: Any, staleness: Staleness) -> None:
    """The effect at the end of training among those of false borders; a band for the latter."""
    least = staleness.least_effect
    if least is not None:
        axes.axhspan(-least, least, color="#999999", alpha=0.2, linewidth=0)
    axes.axhline(0, color="#555", linewidth=0.8)
    drawn = [(each, "#777777", "false borders") for each in staleness.false_borders]
    if staleness.effect is not None:
        drawn.append((staleness.effect, _BLUE, "end of training"))
    for each, colour, label in drawn:
        x = _year(each.border) + 0.125 if each.border else 0.0
        axes.plot([x, x], [each.loss.low, each.loss.high], color=colour, linewidth=2, alpha=0.6)
        axes.plot([x], [each.loss.point], "o", color=colour, ms=5, label=label)
    axes.set_ylabel("effect of a border,\nnats a token")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        once = dict(zip(labels, handles, strict=True))
        axes.legend(once.values(), once.keys(), frameon=False, fontsize=8)


def _draw_means(axes: object, rows: Sequence[QuarterRow], trained_until: str) -> None:
    """Horizontal lines at the mean loss before and since, weighted by the trials read."""
    border = quarter_of(trained_until) or ""
    for part in (
        [row for row in rows if row.quarter <= border],
        [row for row in rows if row.quarter > border],
    ):
        if part:
            read = sum(row.sampled for row in part)
            mean = sum(row.loss.point * row.sampled for row in part) / read
            ends = (_year(part[0].quarter), _year(part[-1].quarter))
            axes.plot(ends, (mean, mean), color=_BLUE, linewidth=1)  # type: ignore[attr-defined]


def _year(quarter: str) -> float:
    """The middle of a quarter such as "2024Q3" on an axis of years."""
    return int(quarter[:4]) + (int(quarter[5]) - 0.5) / 4


def as_table(staleness: Staleness) -> str:
    """The quarters, the terms and the advice as plain text."""
    lines = ["quarter  trials  read  loss   95 % interval    top-1  pseudo-ppl  pieces/word"]
    for row in staleness.quarters:
        lines.append(
            f"{row.quarter}  {row.trials:6}  {row.sampled:4}  {row.loss.point:.3f}  "
            f"{row.loss.low:.3f} to {row.loss.high:.3f}  {row.top1:.3f}  "
            f"{row.pseudo_perplexity:10.1f}  {row.pieces_per_word:.2f}"
        )
    rising = ", ".join(f"{term.word} ({term.pieces})" for term in staleness.rising)
    broken = ", ".join(f"{term.word} ({term.pieces})" for term in staleness.broken)
    return "\n".join(
        [
            *lines,
            f"rising (pieces): {rising or 'none'}",
            f"new and broken up (pieces): {broken or 'none'}",
            *_effect_lines(staleness),
            CAVEAT,
            staleness.advice,
        ]
    )


def _effect_lines(staleness: Staleness) -> list[str]:
    lines = [f"effect {_effect_text(staleness.effect)}"] if staleness.effect else []
    return [*lines, *(f"false border {_effect_text(each)}" for each in staleness.false_borders)]


def _effect_text(effect: Effect) -> str:
    loss = effect.loss
    return (
        f"after {effect.border}: {loss.point:+.3f} nats a token ({loss.low:+.3f} to "
        f"{loss.high:+.3f}), {effect.since} trials against {effect.before}"
    )


def as_dict(staleness: Staleness) -> dict[str, Any]:
    """The same for machines."""
    plain: dict[str, Any] = msgspec.to_builtins(staleness)
    return plain
