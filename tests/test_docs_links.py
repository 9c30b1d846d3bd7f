"""Links of the documentation lead somewhere, also where its files are read as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page: those that a forge makes of headings, and its own."""
    text = BLOCK.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


def broken(page: Path) -> Iterator[str]:
    """Yield the links of a page that say or lead to nothing."""
    for words, target in LINK.findall(BLOCK.sub("", page.read_text())):
        name, _, anchor = target.partition("#")
        if name.startswith("https:"):
            continue
        path = page.parent / name if name else page
        if not words or not path.exists() or (anchor and anchor not in anchors_of(path)):
            yield f"[{words}]({target})"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_says_and_leads_to_something(page: Path) -> None:
    assert list(broken(page)) == []
