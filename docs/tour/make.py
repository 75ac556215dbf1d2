"""Pictures of the page for the README's tour: a running `trialese serve` in, PNG files out.

    python docs/tour/make.py http://127.0.0.1:8000 [TEXT]

Needs selenium, Pillow (which matplotlib brings), chromium and chromedriver. The server should have
a snapshot, a verdict and a file of answers; nothing is answered here.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

HERE = Path(__file__).parent
TEXT = (
    "Stopped early: slow accrual, the sponsor ran out of funding, and two patients had severe "
    "hepatotoxicity."
)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--force-color-profile=srgb",
)  # fmt: skip
LOOKS = {
    "predict": (1200, 900, False),
    "predict-dark": (1200, 900, True),
    "predict-phone": (390, 844, False),
    "trials": (1200, 900, False),
    "trials-dark": (1200, 900, True),
    "trials-phone": (390, 844, True),
    "verdict": (1200, 900, False),
    "verdict-phone": (390, 844, False),
    "label": (1200, 640, False),
    "label-dark": (1200, 640, True),
    "label-phone": (390, 844, True),
}
"""Picture -> width, height, dark."""


def main() -> None:
    """Open every tab and take its pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("text", nargs="?", default=TEXT)
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        driver = start(profile)
        try:
            for tab, prepare in (
                ("predict", predict), ("trials", search), ("verdict", wait), ("label", begin),
            ):  # fmt: skip
                driver.get("about:blank")
                driver.get(f"{asked.url}/#/{tab}")
                until(driver, "return document.body.dataset.ready === 'yes'")
                prepare(driver, asked.text)
                for name, (width, height, dark) in LOOKS.items():
                    if name.partition("-")[0] == tab:
                        look(driver, width, height, dark)
                        driver.save_screenshot(str(asked.out / f"{name}.png"))
                        shrink(asked.out / f"{name}.png")
        finally:
            driver.quit()


def start(profile: str) -> Any:
    """A browser with a fresh profile."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def until(driver: Any, script: str) -> None:
    """Wait until the script gives something true."""
    WebDriverWait(driver, 120).until(lambda d: d.execute_script(script))


def look(driver: Any, width: int, height: int, dark: bool) -> None:
    """Set size and colours; back to the top, or on a phone to the answer."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 1, "y": 1})
    driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    if width < 600:
        driver.execute_script(
            "if (!document.getElementById('predict').hidden)"
            " document.getElementById('answer').scrollIntoView()"
        )
    time.sleep(0.6)


def predict(driver: Any, text: str) -> None:
    """Label the text."""
    driver.find_element(By.ID, "text").send_keys(text, Keys.CONTROL, Keys.ENTER)
    until(driver, "return document.querySelector('#legend') && document.querySelector('.near li')")


def search(driver: Any, _: str) -> None:
    """Trials with a predicted reason for stopping."""
    until(driver, "return document.querySelector('#hits li')")
    driver.find_element(By.ID, "words").send_keys("cancer")
    time.sleep(2)
    driver.find_element(By.CSS_SELECTOR, "[data-chart=label] button").click()
    until(driver, "return document.querySelector('[data-chart=label] [aria-pressed=true]')")


def wait(driver: Any, _: str) -> None:
    """Until the report is there."""
    time.sleep(2)


def begin(driver: Any, _: str) -> None:
    """Begin to label, and give the likeliest label without keeping the answer."""
    driver.find_element(By.ID, "annotator").send_keys("ann", Keys.ENTER)
    until(driver, "return document.getElementById('card-text')")
    driver.execute_async_script(
        """const done = arguments[0];
        fetch("/v1/queue?annotator=ann&most=1").then((answer) => answer.json()).then((told) => {
          const {scores} = told.items[0];
          const best = Object.keys(scores).reduce((a, b) => (scores[a] < scores[b] ? b : a));
          document.querySelector(`#keys [data-label="${best}"]`).click();
          done();
        });"""
    )
    time.sleep(0.5)


def shrink(path: Path) -> None:
    """Few colours are enough for a page."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
