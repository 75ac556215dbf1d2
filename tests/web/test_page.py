"""The page in a real browser, over a real server: what people see, hear and press."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from trialese.artifacts import write_artifact
from trialese.collect.collection import collect_snapshot
from trialese.pipeline.evaluate import judge_classifiers
from trialese.predictions import save_predictions
from trialese.records import Predictions, Task
from trialese.settings import CollectSettings, ServeSettings, VerdictSettings
from trialese.tasks.labelled import read_labelled
from trialese.tasks.scorer import find_classifier
from trialese.web.app import create_app
from trialese.web.models import open_served

pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

PATIENCE = 60

TASK = Task("reasons", ("Enrollment", "Money"), "multilabel", "Why a trial stopped.")
HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> \u202eevil\u202c 💊"
)
REASONS = [
    HOSTILE, *["Slow accrual"] * 3, "slow accrual.", "Lack of funding", "Toxicity", "Futility",
    "Investigator left", "Drug withdrawn by the sponsor",
]  # fmt: skip


def study(number: int, reason: str) -> dict[str, Any]:
    """A study as the registry's API gives it."""
    return {
        "protocolSection": {
            "identificationModule": {
                "nctId": f"NCT{number:08}",
                "briefTitle": f"Drug {number} in asthma" if number else f"Title {HOSTILE}",
            },
            "statusModule": {
                "overallStatus": "TERMINATED",
                "whyStopped": reason,
                "studyFirstPostDateStruct": {"date": f"{2001 + number % 5}-02-03"},
            },
            "descriptionModule": {"briefSummary": f"Summary. {HOSTILE}"},
            "conditionsModule": {"conditions": ["Asthma" if number % 2 else "Gout"]},
            "designModule": {"phases": ["PHASE2" if number % 3 else "PHASE3"]},
            "eligibilityModule": {"sex": "FEMALE" if number % 4 == 0 else "ALL"},
        }
    }


def predictions(system: str, split: Any) -> Predictions:
    """Forty rows of a system that is right most of the time, `adapted` more often."""
    rows = np.random.default_rng(3).random((40, 2))
    truth = rows > 0.5
    if system != "adapted":
        rows = (rows + np.random.default_rng(4).random((40, 2))) / 2
    names = tuple(f"{split}{row}" for row in range(40))
    return Predictions(
        task=TASK.name, kind=TASK.kind, labels=TASK.labels, system=system, split=split, seed=1,
        fold=0, ids=names, clusters=names, scores=np.clip(rows * 0.8 + 0.1, 0, 1), truth=truth,
    )  # fmt: skip


@dataclass
class Site:
    """A running server and what it was made of."""

    url: str
    labelled: Path


@pytest.fixture(scope="module")
def made(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Classifier with its labelled file, snapshot and verdict."""
    home = tmp_path_factory.mktemp("site")
    labelled = home / "gold.tsv"
    labelled.write_text(
        "id\ttext\tlabels\ng1\tVery slow accrual\tEnrollment\ng2\tNo funding\tMoney\n"
        "g3\tFunding ended, slow accrual\tEnrollment|Money\n",
        encoding="utf-8",
    )
    section = {"name": TASK.name, "labels": TASK.labels, "kind": TASK.kind,
               "labelled": str(labelled), "label_descriptions": {"Money": "No funding."},
               "label_sentences": {"Money": ["The money ran out."]}}  # fmt: skip
    for system in ("adapted", "tfidf"):
        described = {"task": TASK.name, "system": system, "section": section}
        with write_artifact(home / system, kind="classifier", settings=described) as draft:
            shutil.copytree(classifier, draft.folder / "model")
            runs = [predictions(system, "tune"), predictions(system, "test")]
            save_predictions(draft.folder / "predictions.parquet", runs)
    judged = [home / "adapted", home / "tfidf"]
    judge_classifiers(judged, VerdictSettings(resamples=100), home / "verdict")
    (home / "studies").mkdir()
    for number, reason in enumerate(REASONS):
        file = home / "studies" / f"{number}.json"
        file.write_text(json.dumps(study(number, reason)), encoding="utf-8")
    paths = (str(home / "studies"),)
    collect_snapshot(CollectSettings(source="files", paths=paths), home / "snapshot")
    return {name: home / name for name in ("adapted", "snapshot", "verdict", "gold.tsv")}


def run_site(
    made: dict[str, Path], home: Path, token: str | None = None, **more: Path | None
) -> Iterator[Site]:
    """A server over all that, until it is told to stop; `more` changes what it is given."""
    given: dict[str, Any] = {
        "snapshot": made["snapshot"],
        "verdict": made["verdict"],
        "labels": home / "answers.sqlite",
        "jobs": home / "jobs",
    }
    models = [made[name] for name in ("adapted", "another") if name in made]
    served = open_served(models, **{**given, **more})
    app = create_app(served, ServeSettings(port=0), token=token)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Site(f"http://127.0.0.1:{port}", made["gold.tsv"])
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def site(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from run_site(made, tmp_path_factory.mktemp("open"))


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def chrome(open_chromium: Callable[..., Any], downloads: Path) -> Any:
    """One browser that logs what it asks for."""
    driver = open_chromium(**{"goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}})
    kept = {"behavior": "allow", "downloadPath": str(downloads)}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", kept)
    return driver


class Page:
    """The browser, asked in the page's own words."""

    def __init__(self, driver: Any, site: Site) -> None:
        self.driver, self.site = driver, site

    def open(self, tab: str = "predict") -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.site.url}/#/{tab}")
        self.until(lambda: self.script("return document.body.dataset.ready") == "yes")

    def script(self, code: str, *values: Any) -> Any:
        return self.driver.execute_script(code, *values)

    def until(self, true: Callable[[], Any]) -> Any:
        def tried(_: Any) -> Any:
            try:
                return true()
            except (WebDriverException, IndexError):  # not drawn yet, or drawn anew meanwhile
                return False

        return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.1).until(tried)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        return str(self.script("return document.querySelector(arguments[0])?.textContent ?? ''",
                               selector))  # fmt: skip

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def width(self, pixels: int, *, dark: bool = False) -> None:
        size = {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": pixels < 600}
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})

    def predict(self, text: str) -> None:
        self.script("document.getElementById('text').value = arguments[0]", text)
        self.driver.find_element(By.CSS_SELECTOR, "#ask-text .main").click()
        self.until(lambda: self.all("#legend") and self.all("#nearest ul, #nearest p.soft"))
        self.until(lambda: "Looking" not in self.text("#nearest"))


@pytest.fixture
def page(chrome: Any, site: Site) -> Iterator[Page]:
    """The page; afterwards nothing may have gone wrong, and nothing been asked of anyone else."""
    chrome.get_log("browser"), chrome.get_log("performance")
    found = Page(chrome, site)
    found.width(1200)
    yield found
    found.width(1200)
    complaints = [entry["message"] for entry in chrome.get_log("browser")]
    expected = getattr(found, "expected", ())
    assert not [line for line in complaints if not any(word in line for word in expected)]
    for entry in chrome.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            assert url.startswith((found.site.url, "about:", "data:", "blob:", "file:")), url


def test_a_text_is_labelled_explained_and_compared(page: Page) -> None:
    page.open()
    page.driver.find_element(By.ID, "text").send_keys("💊 slow accrual", Keys.CONTROL, Keys.ENTER)
    page.until(lambda: page.all("#legend") and page.all(".near li"))
    assert "Predicted by reasons" in page.text("#by") and "no person" in page.text("#by")
    given = [chip.text for chip in page.all("#answer > .chips .chip")]
    assert given == [b.text.split("\n")[0] for b in page.all(".bars .given")] and given
    assert "Predicted: " + ", ".join(given) == page.text("#live")
    assert page.text(".read") == "💊 slow accrual"
    assert {mark.text for mark in page.all(".read mark")} <= {"💊", "slow", "accrual"}
    assert len(page.all(".bars b")) == 2  # a cut-off on every bar
    nearest = page.all(".near li")
    assert "Very slow accrual" in nearest[0].text and "gold.tsv, g1" in nearest[0].text
    assert "LABELLED" in nearest[0].text


def open_pages(chrome: Any, folder: Path, models: dict[str, Path]) -> Iterator[Page]:
    """The page of these models alone, open and shown."""
    made = {**models, "gold.tsv": folder, "snapshot": folder, "verdict": folder}
    for site in run_site(made, folder, snapshot=None, verdict=None, jobs=folder / "jobs"):
        page = Page(chrome, site)
        page.width(1200)
        page.open()
        page.until(lambda page=page: page.all("#legend"))
        yield page


def test_cut_offs_are_chosen_by_use_and_doubt_is_told(
    chrome: Any, tmp_path: Path, downloads: Path
) -> None:
    shipped = find_classifier(Path("stop-reasons"), "small")
    for page in open_pages(chrome, tmp_path, {"adapted": shipped}):
        options = [option.get_attribute("value") for option in page.all("#use option")]
        assert options == ["", "precision=0.9", "recall=0.9"]
        page.predict("Slow accrual, and two patients had severe hepatotoxicity")
        assert not page.all(".person") and "eight in ten" in page.text("#reliable")
        given_labels = {chip.text for chip in page.all("#answer > .chips .chip")}
        assert given_labels == {"Insufficient_Enrollment", "Safety_Sideeffects"}
        Select(page.all("#use")[0]).select_by_value("precision=0.9")
        page.until(lambda page=page: page.all(".person"))
        assert "cannot be promised here" in page.text(".person")
        assert "so that 90 % of those given are right" in page.text("#answer")
        assert [chip.text for chip in page.all("#answer > .chips .chip")] == [
            "Insufficient_Enrollment"
        ]
        assert "prefer=precision" in page.script("return location.hash")
        file = tmp_path / "mine.txt"
        file.write_text("two patients had severe hepatotoxicity\n", encoding="utf-8")
        page.driver.find_element(By.ID, "file").send_keys(str(file))
        page.until(lambda page=page: "with cut-offs for precision=0.9" in page.text("#job"))
        page.driver.refresh()  # a copied address brings the choice again
        page.until(lambda page=page: page.all(".person"))
        assert page.script("return document.getElementById('use').value") == "precision=0.9"
        page.script("scrollTo(0, 0)")  # a browser comes back to where it was
        page.predict("???")
        assert "no label reaches its cut-off" in page.text(".person")
        page.driver.back()
        page.until(lambda page=page: "hepatotoxicity" in page.text(".read"))


def test_a_use_that_another_model_does_not_know_is_not_asked_of_it(
    chrome: Any, tmp_path: Path
) -> None:
    both = [find_classifier(Path(name), "small") for name in ("stop-reasons", "sex")]
    for page in open_pages(chrome, tmp_path, {"adapted": both[0], "another": both[1]}):
        names = [option.get_attribute("value") for option in page.all("#model option")]
        for use, kept in (("recall=0.9", ""), ("precision=0.9", "precision=0.9")):
            Select(page.all("#use")[0]).select_by_value(use)
            page.until(lambda page=page: page.all(".read"))
            Select(page.all("#model")[0]).select_by_value(names[1])
            page.predict("Pregnant women")
            assert page.script("return document.getElementById('use').value") == kept
            Select(page.all("#model")[0]).select_by_value(names[0])


def test_scores_that_are_no_chances_are_called_so(page: Page) -> None:
    page.open()
    page.predict("slow accrual")
    assert "Not calibrated" in page.text("#reliable")
    assert not page.all("#use-choice:not([hidden])")  # this one knows no other cut-offs


def test_another_label_is_explained_when_asked(page: Page) -> None:
    page.open()
    page.predict("slow accrual and no funding")
    page.all(".bars button")[-1].click()
    label = page.all(".bars li")[-1].get_attribute("data-label")
    page.until(lambda: f"against {label}" in page.text("#legend"))
    assert page.all(".bars .chosen")[0].get_attribute("data-label") == label


def test_text_is_shown_as_text(page: Page) -> None:
    page.open()
    page.predict(HOSTILE)
    assert "<script>window.hacked = 1</script>" in page.text(".read")
    assert not page.all("main script, main img")
    page.script("location.hash = '#/trials'")
    page.until(lambda: page.all("#hits > li"))
    page.script("document.getElementById('words').value = 'title'")
    page.script("document.getElementById('search').requestSubmit()")
    page.until(lambda: len(page.all("#hits > li")) == 1)
    page.all(".title")[0].click()
    page.until(lambda: "Summary" in page.text(".detail"))
    assert HOSTILE in page.text(".title") and HOSTILE in page.text(".detail")
    assert page.script("return window.hacked ?? null") is None


def test_a_megabyte_of_emoji_is_a_text(page: Page) -> None:
    page.open()
    page.predict("💊" * 262_144)
    assert page.text(".read").startswith("💊" * 1000)
    assert "262,144 characters" in page.text(".read button")


def test_a_trial_is_looked_up_by_its_number(page: Page) -> None:
    page.expected = ("/v1/trials/NCT99999999",)  # type: ignore[attr-defined]
    page.open()
    field = page.driver.find_element(By.ID, "nct")
    field.send_keys("nct00000005", Keys.ENTER)
    page.until(lambda: page.text(".read") == "Lack of funding")
    assert "from the snapshot" in page.text("#answer")
    for wrong, told in (("NCT12", "no NCT number"), ("NCT99999999", "--live")):
        field.clear()
        field.send_keys(wrong, Keys.ENTER)
        page.until(lambda told=told: told in page.text("#predict-error"))


def test_a_file_is_labelled_as_a_job(page: Page, downloads: Path, tmp_path: Path) -> None:
    page.open()
    file = tmp_path / "mine.txt"
    file.write_text("slow accrual\nno funding\n", encoding="utf-8")
    page.driver.find_element(By.ID, "file").send_keys(str(file))
    page.until(lambda: "2 texts labelled" in page.text("#job"))
    page.all("#job button")[0].click()
    result = downloads / "mine-labels.csv"
    page.until(result.is_file)
    rows = list(csv.DictReader(result.read_text(encoding="utf-8-sig").splitlines()))
    assert [row["text"] for row in rows] == ["slow accrual", "no funding"]


def test_the_snapshot_is_searched_filtered_and_counted(page: Page) -> None:
    page.open("trials")
    page.until(lambda: "10 of 10 trials" in page.text("#found"))
    page.until(lambda: page.script(
        "return fetch('/v1/page').then(r => r.json()).then(f => f.snapshot.read.reasons)") == 1
    )  # fmt: skip
    page.driver.find_element(By.ID, "words").send_keys("gout")
    page.until(lambda: "5 of 10 trials" in page.text("#found"))
    chart = page.all("[data-chart=label] button")[0]
    label, count = chart.text.split("\n")[0], chart.text.split("\n")[-1]
    chart.click()
    page.until(  # the label may be that of every hit, so that their number stays
        lambda: page.all("[data-chart=label] [aria-pressed=true]")[0].text.startswith(label)
    )
    assert f"{count} of 10 trials" in page.text("#found")
    page.all(".filters button")[0].click()
    page.until(lambda: "10 of 10 trials" in page.text("#found"))
    page.all("[data-year='2003']")[0].click()
    page.until(lambda: "2 of 10 trials" in page.text("#found"))
    page.all(".title")[0].click()
    page.until(lambda: "Explain its labels" in page.text(".detail"))
    page.all(".detail button")[0].click()
    page.until(lambda: page.all("#legend"))
    assert "#/predict?nct=NCT" in page.driver.current_url


def test_the_verdict_is_the_report(page: Page) -> None:
    page.open("verdict")
    page.until(lambda: page.all("#report"))
    page.driver.switch_to.frame("report")
    page.until(lambda: "reasons" in page.text("h2"))
    read = page.text("body")
    page.driver.switch_to.default_content()
    assert "adapted" in read and "tfidf" in read


def label_as(page: Page, name: str) -> None:
    page.open("label")
    field = page.driver.find_element(By.ID, "annotator")
    field.clear()
    field.send_keys(name, Keys.ENTER)
    page.until(lambda: page.text("#card-text"))


def answer(page: Page, *keys: str) -> str:
    """Press the keys; the text that was answered, once the next one is there."""
    before = page.text("#card-text")
    for key in keys:
        page.press(key)
    page.until(lambda: page.text("#card-text") != before)
    return before


def test_texts_are_labelled_with_the_keyboard_undone_and_saved(
    page: Page, downloads: Path, site: Site
) -> None:
    label_as(page, "ann")
    first = page.text("#card-text")
    assert first == "Slow accrual" and "serves 4 texts" in page.text("#card .meta")
    answer(page, "1", "2", "2", Keys.ENTER)  # the second label given and taken back
    page.until(lambda: "1 answer" in page.text("#mine") and "4 of 10 texts" in page.text("#served"))
    second = answer(page, "n")
    page.until(lambda: "2 answers" in page.text("#mine"))
    answer(page, "z")
    assert page.text("#card-text") == second
    answer(page, "z")
    assert page.text("#card-text") == first
    assert [b.text for b in page.all("#keys [aria-pressed=true]")] == ["1\nEnrollment"]
    page.until(lambda: "0 answers" in page.text("#mine"))
    answer(page, Keys.ENTER)
    answer(page, "x")
    page.open("label")  # as after a restart: what was answered stays answered
    page.driver.find_element(By.ID, "annotator").send_keys(Keys.ENTER)
    page.until(lambda: page.text("#card-text"))
    assert page.text("#card-text") not in (first, second)
    page.all("#progress button")[0].click()
    page.until((downloads / "labelled.tsv").is_file)
    examples = read_labelled(downloads / "labelled.tsv", TASK)
    assert [(e.example_id, e.labels) for e in examples] == [
        (f"NCT{number:08}", ("Enrollment",)) for number in (1, 2, 3, 4)
    ]


def test_two_annotators_are_compared(page: Page) -> None:
    label_as(page, "bob")
    while "somebody else" not in page.text("#card .meta"):
        answer(page, "n")
    answer(page, "1", Keys.ENTER)
    page.until(lambda: "1 of 1 texts alike" in page.text("#agreement"))
    assert "Krippendorff" in page.text("#agreement")


def test_the_page_can_be_used_without_a_mouse(page: Page) -> None:
    page.open()
    page.press(Keys.TAB, Keys.TAB)
    assert page.driver.switch_to.active_element.text == "Predict"
    page.press(Keys.ARROW_RIGHT)
    assert page.driver.switch_to.active_element.get_attribute("aria-selected") == "true"
    assert page.driver.current_url.endswith("#/trials")
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.script(outline) == "solid"
    page.press("g")
    page.press("l")
    assert page.driver.current_url.endswith("#/label")
    page.script("document.activeElement.blur()")
    page.press("/")
    assert page.driver.switch_to.active_element.get_attribute("id") == "words"
    page.press("/", "g", "l")  # typed, not obeyed
    assert page.driver.current_url.partition("?")[0].endswith("#/trials")
    page.script("document.activeElement.blur()")
    page.press("?")
    assert page.all("dialog[open]")
    page.press(Keys.ESCAPE)
    assert not page.all("dialog[open]")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(page: Page, dark: bool) -> None:
    page.width(360, dark=dark)
    page.open()
    page.predict("slow accrual")
    for tab in ("predict", "trials", "verdict", "label"):
        page.script(f"location.hash = '#/{tab}'")
        page.until(lambda tab=tab: page.script(f"return !document.getElementById('{tab}').hidden"))
        assert page.script("return document.documentElement.scrollWidth") <= 360, tab
    red = page.script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert (int(red) < 60) == dark


def test_every_control_has_a_name(page: Page) -> None:
    page.open()
    page.predict("slow accrual")
    for tab in ("predict", "trials", "label"):
        page.script(f"location.hash = '#/{tab}'")
        nameless = page.script(
            "return [...document.querySelectorAll('button, input, select, textarea, iframe')]"
            ".filter(e => e.checkVisibility() && !(e.textContent.trim() || e.ariaLabel || e.title"
            " || e.labels?.length)).map(e => e.outerHTML)"
        )
        assert nameless == []


def test_a_token_is_asked_for_once(
    chrome: Any, made: dict[str, Path], tmp_path: Path, page: Page
) -> None:
    page.expected = ("401",)  # type: ignore[attr-defined]
    for site in run_site(made, tmp_path, token="secret"):
        page.site = site
        chrome.get(site.url)
        page.until(lambda: page.all("dialog[open] #token"))
        page.driver.find_element(By.ID, "token").send_keys("secret", Keys.ENTER)
        page.until(lambda: page.script("return document.body.dataset.ready") == "yes")
        page.predict("slow accrual")
        page.script("location.hash = '#/verdict'")
        page.driver.switch_to.frame("report")
        page.until(lambda: "reasons" in page.text("h2"))
        page.driver.switch_to.default_content()
        chrome.get("about:blank")


def test_it_opens_on_an_example_that_the_first_action_replaces(page: Page) -> None:
    page.open()
    page.until(lambda: page.all("#example") and page.all("#legend"))
    assert page.text(".read") == "The money ran out."
    page.predict("slow accrual")
    assert page.text(".read") == "slow accrual" and not page.all("#example")


def test_back_and_copied_addresses_bring_it_again(page: Page) -> None:
    page.open()
    page.predict("slow accrual")
    assert "#/predict?text=slow+accrual" in page.driver.current_url
    page.driver.find_element(By.ID, "tab-trials").click()
    page.until(lambda: "10 of 10 trials" in page.text("#found"))
    page.driver.find_element(By.ID, "words").send_keys("gout", Keys.ENTER)
    page.until(lambda: "5 of 10 trials" in page.text("#found"))
    page.all("[data-chart=phase] button")[0].click()
    page.until(lambda: "phase=" in page.driver.current_url)
    copied = page.driver.current_url
    count = page.until(lambda: (t := page.text("#found")) != "5 of 10 trials." and t)
    page.driver.back()
    page.until(lambda: "5 of 10 trials" in page.text("#found"))
    while "#/trials" in page.driver.current_url:
        page.driver.back()
    page.until(lambda: page.text(".read") == "slow accrual" and page.all("#legend"))
    page.driver.get("about:blank")
    page.driver.get(copied)
    page.until(lambda: page.text("#found") == count)
    assert page.script("return document.getElementById('words').value") == "gout"


def test_numbers_are_found_and_hits_saved(page: Page, downloads: Path) -> None:
    page.open("trials")
    page.driver.find_element(By.ID, "words").send_keys("nct00000005")
    page.until(lambda: "1 of 10 trials" in page.text("#found"))
    page.driver.find_element(By.ID, "save-hits").click()
    page.until((downloads / "trials.csv").is_file)
    rows = list(csv.DictReader((downloads / "trials.csv").read_text("utf-8-sig").splitlines()))
    assert [row["nct_id"] for row in rows] == ["NCT00000005"]


def test_an_old_error_does_not_outlive_the_next_action(page: Page) -> None:
    page.open()
    page.driver.find_element(By.ID, "nct").send_keys("NCT12", Keys.ENTER)
    page.until(lambda: page.text("#predict-error"))
    page.driver.find_element(By.ID, "tab-trials").click()
    page.driver.find_element(By.ID, "tab-predict").click()
    assert page.text("#predict-error") == ""


def test_labels_are_defined_where_they_are_given(page: Page) -> None:
    label_as(page, "dora")
    assert "No funding. For example: “The money ran out.”" in [
        button.get_attribute("title") for button in page.all("#keys button")
    ]
    page.all("#definitions summary")[0].click()
    assert page.all("#definitions dd")[0].text == "No funding.\nThe money ran out."


def test_the_api_is_described_without_asking_anyone_else(page: Page) -> None:
    page.driver.get(f"{page.site.url}/docs")
    page.until(lambda: page.script("return document.body.dataset.ready") == "yes")
    page.script("document.querySelectorAll('details').forEach(each => each.open = true)")
    text = page.text("#operations")
    assert "POST /v1/predict" in text and "curl -s" in text and "queue_texts" not in text
    assert page.script("return document.documentElement.scrollWidth <= innerWidth")


GUIDE = """# When in doubt

Give **Money** only where funds *ended*. <script>window.hacked = 3</script>

| text | label |
|:--|--:|
| no funds | Money |

[More](https://example.org/guide), [less](javascript:alert(1)), ![x](https://example.org/x.png)
"""


@pytest.fixture(scope="module")
def own_site(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server whose queue is a table of the user's own, with guidelines; no snapshot."""
    home = tmp_path_factory.mktemp("own")
    rows = ["id;text", "a;Slow accrual", "a;Lack of funding", "b;", "c;Toxicity"]
    (home / "mine.csv").write_text("\n".join(rows), encoding="utf-8")
    (home / "guide.md").write_text(GUIDE, encoding="utf-8")
    own = {"queue": home / "mine.csv", "guidelines": home / "guide.md"}
    yield from run_site(made, home, snapshot=None, **own)


@pytest.fixture
def own_page(chrome: Any, own_site: Site, page: Page) -> Page:
    """The page of that server."""
    page.site = own_site
    return page


def test_texts_of_the_users_own_are_labelled_with_guidelines_beside(
    own_page: Page, downloads: Path
) -> None:
    page = own_page
    page.open("label")
    page.until(lambda: page.all("#guidelines summary") and page.text("#guidelines h3"))
    assert "3 texts of mine.csv (left out: 1 no text)" in page.text("#queue-source")
    page.all("#guidelines summary")[0].click()
    assert page.all("#guidelines strong") and page.all("#guidelines td")
    assert "<script>" in page.text("#guidelines") and not page.all("#guidelines script, img")
    links = [link.get_attribute("href") for link in page.all("#guidelines a")]
    assert links == ["https://example.org/guide", "https://example.org/x.png"]
    assert page.script("return window.hacked ?? null") is None
    page.driver.find_element(By.ID, "annotator").clear()
    page.driver.find_element(By.ID, "annotator").send_keys("ann", Keys.ENTER)
    page.until(lambda: page.text("#card-text"))
    seen = {answer(page, "1", Keys.ENTER) for _ in range(2)}
    page.until(lambda: "60 labelled texts that a learning curve needs" in page.text("#curve"))
    page.press("n")
    page.until(lambda: "Nothing left to label" in page.text("#card"))
    assert len(seen) == 2
    (downloads / "labelled.tsv").unlink(missing_ok=True)
    page.until(lambda: "3 answers" in page.text("#mine"))
    page.all("#progress button")[0].click()
    page.until((downloads / "labelled.tsv").is_file)
    examples = read_labelled(downloads / "labelled.tsv", TASK)
    assert {e.example_id for e in examples} == {"a row 1", "a row 2", "c"}


@pytest.fixture
def fresh_page(made: dict[str, Path], page: Page, tmp_path: Path) -> Iterator[Page]:
    """The page of a server that nobody has given an answer yet."""
    for site in run_site(made, tmp_path):
        page.site = site
        yield page
        page.driver.get("about:blank")


def test_disagreements_are_reviewed_decided_on_and_kept(fresh_page: Page, downloads: Path) -> None:
    page = fresh_page
    label_as(page, "ann")
    disputed = answer(page, "1", Keys.ENTER)
    label_as(page, "bob")
    while page.text("#card-text") != disputed:
        answer(page, "n")
    answer(page, "2", Keys.ENTER)
    page.until(lambda: page.all("#to-review"))
    page.all("#to-review")[0].click()
    page.until(lambda: page.all(".answers > li"))
    assert "view=review" in page.driver.current_url
    told = [line.text.split("\n")[:2] for line in page.all(".answers > li")]
    assert told == [["ann", "Enrollment"], ["bob", "Money"]]
    page.all(".answers button")[1].click()
    page.until(lambda: "by bob" in page.text(".decided"))
    assert "0 without a decision" in page.text("#review-line")
    page.all(".disputes summary")[0].click()
    page.all(".disputes .keys button")[0].click()
    page.all(".disputes .main")[0].click()
    page.until(lambda: "EnrollmentMoney" in page.text(".decided"))
    page.all("#review .row button")[1].click()
    page.until((downloads / "disagreements.tsv").is_file)
    table = (downloads / "disagreements.tsv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines(), delimiter="\t"))
    assert [(r["ann"], r["bob"], r["decision"], r["decided_by"]) for r in rows] == [
        ("Enrollment", "Money", "Enrollment|Money", "bob")
    ]
    page.driver.get("about:blank")
    page.driver.get(f"{fresh_page.site.url}/#/label?view=review")
    page.driver.refresh()
    page.until(lambda: page.all("#who") and page.script("return document.body.dataset.ready"))
    page.driver.find_element(By.ID, "annotator").send_keys(Keys.ENTER)
    page.until(lambda: "by bob" in page.text(".decided"))
    page.all(".decided button")[0].click()
    page.until(lambda: "1 without a decision" in page.text("#review-line"))
    page.all("#review .row button")[0].click()
    page.until(lambda: page.text("#card-text"))


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_commands_of_the_api_page_run(page: Page, tmp_path: Path) -> None:
    (tmp_path / "texts.tsv").write_text("id\ttext\na\tSlow accrual\n", encoding="utf-8")
    page.driver.get(f"{page.site.url}/docs")
    page.until(lambda: page.script("return document.body.dataset.ready") == "yes")
    commands = page.script(
        "return [...document.querySelectorAll('.route pre')].map(e => e.textContent)"
    )
    assert len(commands) > 20
    answers = {}
    for command in commands:
        asked = f"{command} -o answer -w '%{{http_code}}'"
        told = subprocess.run(
            ["sh", "-c", asked],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            timeout=60,
        )
        answers[command] = int(told.stdout)
    # what names a text, a job or a trial of its own is not there; nothing is misunderstood
    wrong = {c: s for c, s in answers.items() if s not in (200, 202, 404)}
    assert not wrong
    for part in ("/v1/predict'", "/v1/explain'", "/v1/nearest'", "/v1/jobs' -F", "annotator=ann'"):
        assert next(s for c, s in answers.items() if part in c) in (200, 202), part


AXE = os.environ.get("AXE_CORE", "")
"""Path of axe.min.js, of npm's package axe-core."""
needs_axe = pytest.mark.skipif(
    not AXE, reason="AXE_CORE names no axe.min.js (npm pack axe-core, as .ci/run does)"
)


def barriers(page: Page) -> list[tuple[str, str, str]]:
    """What axe finds on what the browser shows: rule, element, why."""
    page.driver.execute_cdp_cmd(  # the report's own policy forbids scripts, axe's too
        "Runtime.evaluate", {"expression": Path(AXE).read_text(encoding="utf-8")}
    )
    told = page.driver.execute_cdp_cmd(
        "Runtime.evaluate",
        {
            "expression": "axe.run({iframes: false}).then(r => JSON.stringify(r.violations))",
            "awaitPromise": True,
            "returnByValue": True,
        },
    )
    return [
        (each["id"], node["html"], node["any"][0]["message"] if node["any"] else "")
        for each in json.loads(told["result"]["value"])
        for node in each["nodes"]
    ]


@needs_axe
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_barrier(page: Page, dark: bool) -> None:
    page.width(1200, dark=dark)
    for tab in ("predict", "trials", "verdict", "label", "docs"):
        if tab == "docs":
            page.driver.get(f"{page.site.url}/docs")
            page.until(lambda: page.script("return document.body.dataset.ready") == "yes")
        else:
            page.open(tab)
        page.until(lambda tab=tab: tab != "predict" or page.all("#nearest ul, #nearest p.soft"))
        assert not barriers(page), tab
    page.open("verdict")
    page.until(lambda: page.all("#verdict-alone[href]"))
    page.driver.get(str(page.driver.find_element(By.ID, "verdict-alone").get_attribute("href")))
    assert not barriers(page), "the report alone"


@needs_axe
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_barrier_for_annotators(fresh_page: Page, dark: bool) -> None:
    page = fresh_page
    page.width(1200, dark=dark)
    label_as(page, "ann")
    disputed = answer(page, "1", Keys.ENTER)
    label_as(page, "bob")
    while page.text("#card-text") != disputed:
        answer(page, "n")
    answer(page, "2", Keys.ENTER)
    page.until(lambda: page.all("#to-review"))
    assert not barriers(page), "the queue"
    page.all("#to-review")[0].click()
    page.until(lambda: page.all(".answers > li"))
    page.all(".disputes summary")[0].click()
    page.all(".answers button")[0].click()
    page.until(lambda: page.all(".decided"))
    assert not barriers(page), "the review"


@needs_axe
def test_axe_finds_no_barrier_on_the_staleness_page(page: Page, toy: Any, tmp_path: Path) -> None:
    home = Path(toy.folder) / "toy"
    asked = [
        "staleness", home / "snapshot", "--model", home / "base" / "model",
        "--trained-until", "2021-12-31", "--sample", 2, "--pll-sample", 1, "-o", tmp_path,
    ]  # fmt: skip
    command = [sys.executable, "-m", "trialese", *map(str, asked)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    for dark in (False, True):
        page.width(1200, dark=dark)
        page.driver.get((tmp_path / "staleness.html").as_uri())
        assert not barriers(page), dark
