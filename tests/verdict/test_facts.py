from __future__ import annotations

from trialese.verdict.card import ATTRIBUTION, attribution_of, list_facts


def test_source_comes_first_and_nested_counts_keep_their_names() -> None:
    context = {
        "corpus": {"drops": {"too_short": 1234}, "new_from": None},
        "recipe": {"name": "shown elsewhere"},
        "data_timestamp": "2024-09-24",
        "source": "files",
        "synthetic": False,
        "paths": ["a.zip", "b.zip"],
        "new_head": True,
        "fits": [{"loss": 1.0}, {"loss": 2.0}],
        "ids": list(range(20)),
        "dropped": [],
    }
    assert list(list_facts(context)) == [
        ("synthetic", "no"),
        ("source", "files"),
        ("data timestamp", "2024-09-24"),
        ("corpus, drops, too short", "1,234"),
        ("corpus, new from", "not known"),
        ("paths", "a.zip, b.zip"),
        ("new head", "True"),
        ("fits", "2 (in verdict.json)"),
        ("ids", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 8 more"),
        ("dropped", "none"),
    ]


def test_nothing_known_is_said() -> None:
    assert "not given" in dict(list_facts({}))["source"]


def test_only_real_text_is_attributed() -> None:
    assert attribution_of({"source": "files"}) == ATTRIBUTION
    assert attribution_of({"synthetic": True}) == ""
    assert attribution_of({"attribution": "somebody else"}) == "somebody else"
