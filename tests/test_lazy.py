"""Names that are loaded on first use."""

import pytest

import trialese.tasks
from trialese.lazy import load_lazily


def test_a_name_comes_from_its_home_and_others_do_not_exist() -> None:
    find, names = load_lazily("somewhere", {"dumps": "json", "sqrt": "math"})
    assert find("sqrt")(9) == 3
    assert names() == ["dumps", "sqrt"]
    with pytest.raises(AttributeError, match="module 'somewhere' has no attribute 'loads'"):
        find("loads")
    assert set(dir(trialese.tasks)) == set(trialese.tasks.__all__)
