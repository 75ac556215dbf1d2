"""The report in a real browser: nothing wider than the screen, names everywhere, printable."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trialese.artifacts import read_manifest, verify_files
from trialese.errors import ArtifactError, RecordError
from trialese.predictions import load_predictions, save_predictions
from trialese.records import Predictions, Verdict
from trialese.settings import VerdictSettings
from trialese.tasks.stop_reasons import STOP_REASON_GROUPS
from trialese.verdict.judge import judge
from trialese.verdict.protocols import write_protocols
from trialese.verdict.report import load_verdicts, write_report

Runs = dict[str, list[Predictions]]
QUICK = VerdictSettings(resamples=100)
ROWS = [
    {"stage": "adapter", "step": s, "tokens": s * 2048, "era": e, "split": "test",
     "loss": 3 - s / 100, "top1": 0.4 + s / 1000}
    for s in (0, 50, 100) for e in ("new", "old")
]  # fmt: skip
VOID = {"meta", "line", "rect", "circle", "path", "polyline", "br", "wbr"}


@pytest.fixture
def verdicts(made: Callable[..., Runs]) -> list[Verdict]:
    sex = made(task="sex", kind="multiclass", labels=("All", "Female", "Male"), run_folds=1)
    return [judge(made(), QUICK), judge(sex, QUICK)]


class Page(HTMLParser):
    """Notes every element, and refuses what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(path: Path) -> Page:
    return Page((path / "report.html").read_text(encoding="utf-8"))


def test_folder_is_an_artifact_that_reads_back(tmp_path: Path, verdicts: list[Verdict]) -> None:
    path = write_report(tmp_path / "verdict", verdicts, curves=ROWS, inputs={"base": "d" * 64})
    manifest = read_manifest(path, kind="verdict")
    assert set(manifest.files) == {
        "report.html",
        "verdict.json",
        "verdict.md",
        "cards/data.md",
        *(
            f"cards/{task}-{system}/README.md"
            for task in ("stop-reasons", "sex")
            for system in ("adapted", "base")
        ),
    }
    assert manifest.inputs == {"base": "d" * 64}
    assert manifest.notes["signatures"] == [verdict.signature for verdict in verdicts]
    verify_files(path)
    assert load_verdicts(path) == verdicts


def test_equal_predictions_give_equal_bytes_without_torch(tmp_path: Path, runs: Runs) -> None:
    """From saved predictions, in another process with another hash seed, byte for byte."""
    for system, given in runs.items():
        save_predictions(tmp_path / f"{system}.parquet", given)
    script = f"""
import sys
from pathlib import Path
from trialese.predictions import load_predictions
from trialese.settings import VerdictSettings
from trialese.verdict.judge import judge
from trialese.verdict.report import write_report
folder = Path({str(tmp_path)!r})
runs = {{f.stem: load_predictions(f) for f in folder.glob("*.parquet")}}
write_report(folder / "other", [judge(runs, VerdictSettings(resamples=100))])
assert not {{"torch", "sklearn", "scipy", "transformers"}} & set(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        env={"PYTHONHASHSEED": "5", "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
    )
    loaded = {s: load_predictions(tmp_path / f"{s}.parquet") for s in runs}
    write_report(tmp_path / "one", [judge(loaded, QUICK)])
    for name in ("verdict.json", "verdict.md", "report.html", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_page_loads_nothing_and_stays_small(tmp_path: Path, verdicts: list[Verdict]) -> None:
    path = write_report(tmp_path / "verdict", verdicts, curves=ROWS)
    text = (path / "report.html").read_text(encoding="utf-8")
    assert len(text) < 3_000_000
    assert not re.search(r"https?://|//[a-z]|@import|url\(|<script|<link|<img|<iframe", text)
    assert "default-src 'none'" in text


def test_page_says_the_summary_the_scores_and_the_signature(
    tmp_path: Path, verdicts: list[Verdict]
) -> None:
    page = page_of(write_report(tmp_path / "verdict", verdicts, curves=ROWS))
    text = " ".join(page.text)
    for verdict in verdicts:
        assert verdict.signature in text
        for scores in verdict.scores:
            for label in scores.labels:
                assert f"{label.f1.point:.4f}" in text
            for average in scores.averages.values():
                assert f"{average.f1.low:.4f}–{average.f1.high:.4f}" in text
        for audit in verdict.audits:
            assert audit.finding in text
    assert "courtesy of the U.S. National Library of Medicine" in text
    assert text.index("texts, adapted") < text.index("precision")


def test_every_chart_has_a_name_and_every_table_headers(
    tmp_path: Path, verdicts: list[Verdict]
) -> None:
    page = page_of(write_report(tmp_path / "verdict", verdicts, curves=ROWS))
    charts = [attrs for tag, attrs in page.elements if tag == "svg" and attrs.get("role") == "img"]
    assert len(charts) > 40
    assert all(attrs["aria-label"] for attrs in charts)
    assert all(attrs.get("scope") for tag, attrs in page.elements if tag == "th")
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        if attrs.get("href"):
            assert (attrs["href"] or "")[1:] in ids
        if attrs.get("aria-labelledby"):
            assert attrs["aria-labelledby"] in ids
    assert ("html", {"lang": "en"}) in page.elements


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def mixed(one: str, other: str, share: float) -> str:
    """CSS's color-mix in srgb, as the cells of the confusion matrix are tinted."""
    parts = [
        round(share * int(one[i : i + 2], 16) + (1 - share) * int(other[i : i + 2], 16))
        for i in (1, 3, 5)
    ]
    return "#" + "".join(f"{part:02x}" for part in parts)


def contrast(one: str, other: str) -> float:
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_contrast_in_light_and_dark(tmp_path: Path, verdicts: list[Verdict]) -> None:
    """WCAG 2.2: text 4.5 to 1, marks of a chart 3 to 1."""
    text = (write_report(tmp_path / "v", verdicts) / "report.html").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{([^}]*)\}", text)[:2]
    )
    assert set(dark) == set(light)
    for scheme in (light, dark):
        for ink in ("ink", "soft", "good", "bad", "adapted"):
            assert contrast(scheme[ink], scheme["page"]) >= 4.5, ink
        for mark in ("adapted", "base", "baseline", "other", "fourth", "good", "bad"):
            assert contrast(scheme[mark], scheme["page"]) >= 3, mark
        assert contrast(scheme["warn-ink"], scheme["warn-page"]) >= 4.5
        for ink in ("ink", "soft"):  # in a table's first column and under code
            assert contrast(scheme[ink], scheme["panel"]) >= 4.5
        assert contrast(scheme["ink"], mixed(scheme["adapted"], scheme["page"], 0.30)) >= 4.5


def test_banners_for_synthetic_data_and_for_allowed_overlap(
    tmp_path: Path, runs: Runs, changed: Callable[..., Predictions]
) -> None:
    plain = page_of(write_report(tmp_path / "a", [judge(runs, QUICK)], context={"synthetic": True}))
    text = " ".join(plain.text)
    assert "Synthetic data" in text
    assert "National Library of Medicine" not in text
    tune, test, *others = runs["base"]
    runs["base"] = [tune, changed(test, trained_on=frozenset(test.clusters)), *others]
    verdict = judge(runs, QUICK, allow_overlap=True)
    branded = " ".join(page_of(write_report(tmp_path / "b", [verdict])).text)
    assert "Overlap allowed" in branded
    assert "Synthetic data" not in branded


def test_page_tells_every_training_run(tmp_path: Path, made: Callable[..., Runs]) -> None:
    verdict = judge(made(systems=("adapted", "tfidf"), seeds=(1, 2)), QUICK)
    text = " ".join(" ".join(page_of(write_report(tmp_path / "v", [verdict])).text).split())
    one, two = verdict.notes["f1_by_seed"]["adapted"]["macro-f1"]
    assert f"macro-F1 of each training run: adapted {one:.3f}, {two:.3f}; tfidf" in text
    assert "One training run each" not in text


@pytest.mark.parametrize(
    ("systems", "shown"),
    [
        (("tfidf", "prior"), ["tfidf"]),
        (("base", "tfidf", "keywords"), ["base", "tfidf"]),
        (("keywords", "prior"), []),
    ],
)
def test_every_classifier_that_can_be_used_shows_its_calibration(
    tmp_path: Path, made: Callable[..., Runs], systems: tuple[str, ...], shown: list[str]
) -> None:
    # TF-IDF's ships, and users fit theirs; of the prior and the key words only scores are kept.
    page = write_report(tmp_path / "v", [judge(made(systems=systems), QUICK)])
    text = "\n".join(page_of(page).text)
    assert re.findall(r"^(\w+): share that came true$", text, re.MULTILINE) == shown
    assert bool(re.search("^Calibration$", text, re.MULTILINE)) == bool(shown)


def test_page_shows_what_is_taken_for_what(tmp_path: Path, verdicts: list[Verdict]) -> None:
    reasons, sex = verdicts
    text = " ".join(" ".join(page_of(write_report(tmp_path / "v", verdicts)).text).split())
    matrix = reasons.notes["confusions"]["adapted"]
    most = max((n, -i, -j) for i, row in enumerate(matrix) for j, n in enumerate(row))
    true, predicted = (reasons.labels[-place].replace("_", "_ ") for place in most[1:])
    assert f"{true} {predicted} {most[0]:g}" in text
    right = sex.notes["confusions"]["adapted"][0][0]
    share = 100 * right / sum(sex.notes["confusions"]["adapted"][0])
    assert f"{right:g} {share:.1f} %" in text
    (found,) = sex.notes["mcnemar"]["adapted - base"]
    assert f"right on {found['only']} texts, only the second on {found['rival_only']}" in text


def test_what_comes_from_data_is_escaped(tmp_path: Path, made: Callable[..., Runs]) -> None:
    verdict = judge(made(labels=("<b>&amp;", "x_y", "c")), QUICK)
    context = {
        "source": "<script>alert(1)</script>",
        "data_timestamp": None,
        "n": {"studies": 1234},
    }
    path = write_report(tmp_path / "v", [verdict], context=context)
    raw = (path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in raw
    text = " ".join(page_of(path).text)
    assert "<b>&amp;" in text
    assert "not known" in text
    assert "1,234" in text


def test_bad_folders(tmp_path: Path, verdicts: list[Verdict]) -> None:
    with pytest.raises(RecordError, match="no verdict to report"):
        write_report(tmp_path / "v", [])
    path = write_report(tmp_path / "v", verdicts)
    (path / "verdict.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"verdict.json: altered since it was written"):
        load_verdicts(path)
    foreign: Any = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtifactError, match="trialese did not write"):
        write_report(foreign, verdicts)


def test_json_is_for_machines(tmp_path: Path, verdicts: list[Verdict]) -> None:
    path = write_report(tmp_path / "v", verdicts, curves=ROWS, context={"source": "files"})
    data = msgspec.json.decode((path / "verdict.json").read_bytes())
    assert data["format"] == 1
    assert data["curves"] == ROWS
    assert data["context"] == {"source": "files"}
    assert data["verdicts"][0]["signature"] == verdicts[0].signature


@pytest.fixture(scope="module")
def browser(open_chromium: Callable[..., Any]) -> Any:
    return open_chromium()


@pytest.fixture
def pages(tmp_path: Path, made: Any) -> dict[str, Path]:
    quick = VerdictSettings(resamples=100)
    reasons = judge(made(), quick, groups=STOP_REASON_GROUPS)
    sex = judge(
        made(task="sex", kind="multiclass", labels=("All", "Female", "Male"), run_folds=1), quick
    )
    pairs: list[tuple[Verdict, Verdict]] = [(reasons, reasons)]
    return {
        "report": write_report(tmp_path / "report", [reasons, sex], curves=ROWS) / "report.html",
        "twin": write_protocols(tmp_path / "twin", pairs) / "report.html",
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
