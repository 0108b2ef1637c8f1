"""What the documents say of formats and options is what the code has."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

from hf_mmalign.data.loading import FORMATS, load_multimodal_dataset, options_of
from hf_mmalign.runs.build import read_arguments
from hf_mmalign.runs.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
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


def test_recipes_in_the_readme_can_be_used():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    recipes = [yaml.safe_load(block) for block in blocks]
    whole = [values for values in recipes if "model_type" in values]
    assert whole
    for values in whole:
        read_arguments(Recipe(ROOT / "README.md", values, {}, {}))
