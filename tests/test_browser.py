"""The example in a browser: two users see two different lists."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import (
    presence_of_element_located,
    staleness_of,
)
from selenium.webdriver.support.ui import Select, WebDriverWait

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
    assert set(of_alice).isdisjoint(of_bob)


def admin_of(browser: webdriver.Chrome, url: str, name: str) -> str:
    """Return the text of the list of tags in the admin."""
    log_in(browser, url, name)
    browser.get(f"{url}/admin/notes/tag/")
    return browser.find_element(By.ID, "content").text


def test_the_admin_switches_tenants(browser: webdriver.Chrome, example: Example) -> None:
    everything = admin_of(browser, example.url, "root")
    count = len(browser.find_elements(By.CSS_SELECTOR, "#result_list tbody tr"))
    assert "By tenant" in everything
    # By the keyboard: the label names the choice, and the button follows it.
    label = browser.find_element(By.CSS_SELECTOR, "#tenant-switcher label")
    choice = browser.find_element(By.ID, str(label.get_attribute("for")))
    assert choice.accessible_name == "Tenant"
    assert Select(choice).first_selected_option.text == "All tenants"
    choice.send_keys("Globex", Keys.TAB)
    assert browser.switch_to.active_element.text == "Switch"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    WebDriverWait(browser, 20).until(staleness_of(choice))
    WebDriverWait(browser, 20).until(presence_of_element_located((By.ID, "footer")))
    assert browser.current_url == f"{example.url}/admin/notes/tag/"
    switched = browser.find_element(By.ID, "content").text
    assert "By tenant" not in switched
    chosen = Select(browser.find_element(By.ID, "tenant-switcher-tenant"))
    assert chosen.first_selected_option.text == "Globex"
    rows = len(browser.find_elements(By.CSS_SELECTOR, "#result_list tbody tr"))
    assert 0 < rows < count
    # The same as who belongs to that tenant, and has nothing to switch.
    assert admin_of(browser, example.url, "bob") == switched
    assert browser.find_elements(By.ID, "tenant-switcher") == []
