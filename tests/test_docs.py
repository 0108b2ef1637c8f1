"""What the documents say of formats and options is what the code has."""

import inspect
import re
from pathlib import Path

import pytest

from hf_mmalign.data.loading import FORMATS, load_multimodal_dataset, options_of

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
