"""What the documents say of formats and options is what the code has."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

from hf_mmalign.cli.main import _build_parser
from hf_mmalign.data.loading import FORMATS, load_multimodal_dataset, options_of
from hf_mmalign.runs.build import read_arguments
from hf_mmalign.runs.recipe import load_recipe, parse_overrides
from hf_mmalign.runs.sweeps import read_sweep

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FORMATS_PAGE = (ROOT / "docs" / "data-formats.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_and_option_is_described(name):
    sections = re.split(r"^## ", FORMATS_PAGE, flags=re.MULTILINE)
    section = next((text for text in sections if f"`{name}`" in text.splitlines()[0]), None)
    assert section is not None, f"docs/data-formats.md has no section of {name}"
    undescribed = [option for option in options_of(name) if option not in section and option != "nonfinite"]
    assert not undescribed
    assert f"`{name}`" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"`{name}`" in inspect.getdoc(load_multimodal_dataset)


def commands_of(page: Path) -> list:
    """The page's commands, joined where they go over several lines, without those that leave something out (…)."""
    found = []
    for text in re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        lines = text.replace("\\\n", " ").splitlines()
        found += [shlex.split(line, comments=True) for line in lines if "…" not in line]
    return [pytest.param(words, id=f"{page.stem}: {' '.join(words)[:60]}") for words in found if words]


@pytest.mark.parametrize("words", [command for page in PAGES for command in commands_of(page)])
def test_every_command_of_a_page_can_be_given(words, monkeypatch):
    """Recipe, keys and options are read; nothing runs."""
    program, *rest = words
    if program == "python":
        assert (ROOT / rest[0]).is_file()
        return
    assert program == "hf-mmalign"
    args, told = _build_parser().parse_known_args(rest)
    if not getattr(args, "takes_overrides", False):
        assert not told
    elif rest[0] in ("train", "sweep"):
        monkeypatch.chdir(ROOT)
        keys, recipe = parse_overrides(told), load_recipe(args.recipe)
        if rest[0] == "sweep":
            read_sweep(recipe, keys)
        else:
            read_arguments(recipe.override(keys, "the command line"))


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_what_a_page_links_to_is_there(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
