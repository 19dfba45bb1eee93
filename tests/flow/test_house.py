"""The house: what the layout promises to those who install and read it."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("node", "dispatcher", "serializers", "schemas")


def test_no_other_distribution_owns_our_packages_names() -> None:
    """Or one of them would be imported instead of ours (docs/decisions/0004)."""
    owners = importlib.metadata.packages_distributions()
    for name in OURS:
        assert set(owners.get(name, ["kod"])) == {"kod"}


@pytest.mark.parametrize("name", OURS)
def test_every_layer_says_what_is_in_it(name: str) -> None:
    """A folder's docstring is its map: it names every module that is there."""
    text = (ROOT / name / "__init__.py").read_text()
    modules = {p.stem for p in (ROOT / name).glob("*.py")} - {"__init__", "__main__"}
    folders = {p.parent.name for p in (ROOT / name).glob("*/__init__.py")}
    missing = [m for m in sorted(modules | folders) if not re.search(rf"\b{m}\b", text)]
    assert not missing


def test_dependencies_are_pinned_with_hashes_and_without_addresses() -> None:
    """What is installed is what was tested, wherever it is installed from."""
    text = (ROOT / "requirements.txt").read_text()
    pins = re.findall(r"^(\S+?)==\S+", text, re.MULTILINE)
    assert len(pins) > 30
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=\S)", text.strip()))
    assert "://" not in text
    assert "index-url" not in text


@pytest.mark.parametrize(
    "page",
    sorted(
        p.relative_to(ROOT).as_posix()
        for p in ROOT.glob("**/*.md")
        if ".venv" not in p.parts and ".cache" not in p.parts
    ),
)
def test_links_in_the_documents_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
