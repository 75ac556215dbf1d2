"""The report in a real browser: nothing wider than the screen, names everywhere, printable."""

from __future__ import annotations

import base64
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from trialese.records import Verdict
from trialese.settings import VerdictSettings
from trialese.tasks.stop_reasons import STOP_REASON_GROUPS
from trialese.verdict.judge import judge
from trialese.verdict.protocols import write_twin
from trialese.verdict.report import write_report

ROWS = [
    {"stage": "adapter", "step": s, "tokens": s * 2048, "era": e, "split": "test",
     "loss": 3 - s / 100, "top1": 0.4 + s / 1000}
    for s in (0, 50, 100) for e in ("new", "old")
]  # fmt: skip


@pytest.fixture(scope="module")
def browser(open_chromium: Callable[..., Any]) -> Any:
    return open_chromium()


@pytest.fixture
def pages(tmp_path: Path, made: Any) -> dict[str, Path]:
    quick = VerdictSettings(resamples=50)
    reasons = judge(made(), quick, groups=STOP_REASON_GROUPS)
    sex = judge(
        made(task="sex", kind="multiclass", labels=("All", "Female", "Male"), run_folds=1), quick
    )
    pairs: list[tuple[Verdict, Verdict]] = [(reasons, reasons)]
    return {
        "report": write_report(tmp_path / "report", [reasons, sex], curves=ROWS) / "report.html",
        "twin": write_twin(tmp_path / "twin", pairs) / "report.html",
    }


def test_nothing_is_wider_than_the_screen_and_every_part_has_a_name(
    browser: Any, pages: dict[str, Path]
) -> None:
    for (name, path), width, scheme in product(pages.items(), (390, 1200), ("light", "dark")):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(path.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, name
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light"), name
        tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        for node in tree:
            role = node.get("role", {}).get("value")
            if role in {"image", "link", "region", "navigation", "heading", "DisclosureTriangle"}:
                assert node.get("name", {}).get("value"), f"{name}: a {role} without a name"
        log = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not log, f"{name}: {log}"


def test_it_prints(browser: Any, pages: dict[str, Path]) -> None:
    for path in pages.values():
        browser.get(path.as_uri())
        pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
        assert pdf.startswith(b"%PDF") and len(pdf) > 20_000
