"""The example in a browser: two users see two different lists."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.fix_example import Example

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        # Named, so that Selenium does not look for programs on the network.
        programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
        assert all(programs.values()), f"install Chromium and its driver: {programs}"
        options.binary_location = str(programs["chromium"])
        service = webdriver.ChromeService(str(programs["chromedriver"]))
        driver = webdriver.Chrome(options, service)
        yield driver
        driver.quit()


def log_in(browser: webdriver.Chrome, url: str, name: str) -> tuple[str, list[str]]:
    """Return who the page says is bound, and the titles in the list, after logging in."""
    browser.delete_all_cookies()
    browser.get(f"{url}/login/")
    browser.find_element(By.ID, "id_username").send_keys(name)
    browser.find_element(By.ID, "id_password").send_keys("demo")
    browser.find_element(By.ID, "id_password").submit()
    WebDriverWait(browser, 20).until(lambda page: page.find_elements(By.CSS_SELECTOR, "ul.notes"))
    titles = [link.text for link in browser.find_elements(By.CSS_SELECTOR, "ul.notes a")]
    return browser.find_element(By.ID, "bound").text, titles


def test_two_users_see_two_lists(browser: webdriver.Chrome, example: Example) -> None:
    browser.get(example.url)
    assert browser.find_element(By.ID, "bound").text == "unbound"
    assert browser.find_elements(By.CSS_SELECTOR, "ul.notes a") == []
    bound_alice, of_alice = log_in(browser, example.url, "alice")
    bound_bob, of_bob = log_in(browser, example.url, "bob")
    assert (bound_alice, bound_bob) == ("bound to Acme", "bound to Globex")
    assert of_alice
    assert of_bob
    assert of_alice != of_bob
