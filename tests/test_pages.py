"""README.md and docs/: what they have a reader do, where they lead, and what they list."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import Page, commands, pages

import jaxgpt

ROOT = Path(__file__).parent.parent
PAGES = [*pages(ROOT), Page("CONTRIBUTING.md", (ROOT / "CONTRIBUTING.md").read_text())]


@pytest.mark.whole_run
def test_every_block_runs_as_printed(tmp_path):
    command = [sys.executable, Path(__file__).with_name("walk.py"), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_is_a_short_page():
    assert len((ROOT / "README.md").read_bytes()) <= 8192


def test_every_page_has_its_place_in_the_site():
    assert {page.name for page in PAGES if page.name.startswith("docs/")} == {
        str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_pictures_and_headings(page):
    here = {str(ROOT / other.name): other for other in PAGES}
    for link in page.links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page.name).parent / name if name else ROOT / page.name
        assert target.is_file(), link
        assert not anchor or anchor in here[str(target.resolve())].anchors, link


def test_every_picture_is_on_a_page():
    shown = {(ROOT / page.name).parent / link for page in PAGES for link in page.links}
    assert set((ROOT / "docs").glob("*.png")) <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_can_be_read(page):
    list(commands(page))
    for source in page.blocks("python"):
        ast.parse(source)


def test_the_api_pages_list_every_public_name():
    text = "".join(page.text for page in PAGES if page.name.startswith("docs/api/"))
    listed = re.findall(r"^::: jaxgpt\.(\S+)$", text, re.MULTILINE)
    public = [f"{jaxgpt._MODULE[name]}.{name}" for name in jaxgpt.__all__]
    assert sorted(listed) == sorted(public)


def test_every_room_of_the_package_stands_in_the_tree():
    tree = (ROOT / "docs/how-it-is-built.md").read_text()
    for path in (ROOT / "jaxgpt").glob("*/__init__.py"):
        assert re.search(rf"^  {path.parent.name}/ ", tree, re.MULTILINE), path.parent.name
