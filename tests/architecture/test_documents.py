"""Documents point at things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def _anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as Git hosts make them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize(
    "document", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in DOCUMENTS]
)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target, anchor in _LINK.findall(document.read_text()):
        path = document.parent / target if target else document
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(f"{target}#{anchor}".rstrip("#"))
    assert broken == []


def test_the_index_lists_every_decision_with_its_title() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    for number, path in enumerate(DECISIONS, start=1):
        heading = path.read_text().splitlines()[0]
        title = heading.removeprefix(f"# {number}. ")
        assert title != heading, f"{path.name}: should begin with '# {number}. '"
        assert f"| {number} | [{title}]({path.name}) |" in index


def test_every_metric_of_our_own_is_documented() -> None:
    named = set(re.findall(r'"(kpctl_\w+)"', (ROOT / "proxy/runtime/metrics.py").read_text()))
    documented = set(re.findall(r"`(kpctl_\w+)`", (ROOT / "docs/metrics.md").read_text()))
    assert named
    assert named == documented


def test_modules_named_in_the_instructions_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:proxy|kpctl|tests)/[a-z_/]+(?:\.py)?)`", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
