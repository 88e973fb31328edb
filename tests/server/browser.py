"""A headless Chromium to drive, and where its screenshots are kept."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

SCREENSHOTS = Path(__file__).parents[2] / "artefacts"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
)
PATIENCE = 20.0


class Browser:
    """One window of headless Chromium."""

    def __init__(self, folder: Path) -> None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if chromium is None or driver is None:
            pytest.skip("chromium and chromedriver are not installed; `make browser` installs Debian's")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={folder}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.size(1440, 900)

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.until(self.ready)

    def ready(self) -> bool:
        """Whether the page is built and has drawn a frame."""
        return len(self.all("#app[data-ready] .axes *")) > 0

    def js(self, code: str, *values: Any) -> Any:
        return self.driver.execute_script(code, *values)

    def run_async(self, code: str, *values: Any) -> Any:
        """Run the body of an async function, with `values` as its argument."""
        whole = f"const work = async (values) => {{ {code} }}; work(arguments[0]).then(arguments[1], arguments[1])"
        return self.driver.execute_async_script(whole, list(values))

    def cpu_seconds(self, code: str) -> float:
        """Processor time of the page's main thread while the body of an async function runs."""
        self.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        before = self._busy()
        self.run_async(code)
        return self._busy() - before

    def _busy(self) -> float:
        metrics = self.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "TaskDuration")

    def until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while not (value := condition()):
            assert time.monotonic() < end, f"the page did not get there: {condition}"
            time.sleep(0.03)
        return value

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def texts(self, selector: str) -> list[str]:
        """What the elements say, read at one moment."""
        code = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
        return [str(each) for each in self.js(code, selector)]

    def shown(self) -> int:
        """How many nodes are drawn."""
        return int(self.js("return document.querySelectorAll('.node:not([hidden])').length"))

    def errors(self) -> list[str]:
        """What the console complained about since the last call."""
        return [each["message"] for each in self.driver.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Addresses outside of the page that it asked for since the last call."""
        events = [each["message"] for each in self.driver.get_log("performance")]
        asked = [each for each in events if '"Network.requestWillBeSent"' in each]
        return [each for each in asked if '"url":"http' in each or '"url":"ws' in each]

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        self.js("return new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
        assert self.driver.save_screenshot(str(SCREENSHOTS / name))
