"""An input ablation in one sentence: does the classifier read, or does it peek?"""

from __future__ import annotations

from trialese.records import Interval, Scores, Verdict

__all__ = ["describe_ablation"]

_SAID = {
    "titles": "titles alone",
    "criteria": "criteria alone",
    "no-sex-words": "everything but the sentences that say a sex",
}


def describe_ablation(verdict: Verdict) -> str:
    """What of the gain over the prior survives the cut of the telling sentences; "" if no ablation.

    Macro-F1 of each variant with its interval, then the share of what the full text gains over
    the prior that is left without the sentences that say a sex: reading; the rest is peeking.
    """
    by_name = {scores.system: scores for scores in verdict.scores}
    if not {"full", "no-sex-words", "prior"} <= set(by_name):
        return ""
    full, cut, prior = (_macro(by_name[name]) for name in ("full", "no-sex-words", "prior"))
    parts = [
        f"{_f1(_macro(by_name[name]))} from {said}"
        for name, said in _SAID.items()
        if name in by_name
    ]
    gain = full.point - prior.point
    if gain <= 0:
        return f"The full text ({_f1(full)}) gains nothing over the prior ({prior.point:.4f})."
    share = max(0.0, min(1.0, (cut.point - prior.point) / gain))
    verb = "reads more than it peeks" if share > 0.5 else "peeks more than it reads"
    if cut.low <= prior.high:
        verb = "peeks: without those sentences it cannot be told from the prior"
    return (
        f"Macro-F1 {_f1(full)} from the full text; {'; '.join(parts)}; {prior.point:.4f} for the "
        f"prior. Of the gain over the prior {share:.0%} is left without the sentences that say a "
        f"sex, so the classifier {verb}."
    )


def _macro(scores: Scores) -> Interval:
    return scores.averages["macro"].f1


def _f1(found: Interval) -> str:
    return f"{found.point:.4f} [{found.low:.4f}, {found.high:.4f}]"
