"""A saved folder in the hands of a transformers that has not imported this package, or cannot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForSequenceClassification, AutoProcessor

import hf_mmalign
from hf_mmalign import (
    BertWmaConfig,
    BertWmaForSequenceClassification,
    DecAlignConfig,
    DecAlignForSequenceClassification,
    MultimodalProcessor,
)
from hf_mmalign.data.processor import train_tokenizer
from hf_mmalign.stub import is_ours
from tests.tiny import BACKBONE, TOKENS

ROOT = Path(__file__).resolve().parents[1]

# Prints what each call gives: the class of what is loaded, or the error.
LOAD = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoProcessor, AutoTokenizer, BertModel

wma, decalign = sys.argv[1:]
outcomes = {}

def attempt(name, call, show=lambda loaded: type(loaded).__name__):
    try:
        outcomes[name] = show(call())
    except Exception as error:
        outcomes[name] = f"{type(error).__name__}: {error}"

def load(auto_class, folder, **arguments):
    return lambda: auto_class.from_pretrained(folder, **arguments)

trust = {"trust_remote_code": True}
sys.modules["hf_mmalign"] = None  # as if it were not installed
attempt("model without the package", load(AutoModelForSequenceClassification, wma, **trust))
attempt("processor without the package", load(AutoProcessor, wma, **trust))
attempt("model unasked", load(AutoModelForSequenceClassification, wma))
attempt("processor unasked", load(AutoProcessor, wma))
attempt("stock model", load(BertModel, wma))
attempt("stock tokenizer", load(AutoTokenizer, wma))
del sys.modules["hf_mmalign"]
attempt("model", load(AutoModelForSequenceClassification, wma, **trust))
changed = load(AutoModelForSequenceClassification, wma, wma_alpha=7.0, **trust)
attempt("changed field", changed, lambda model: model.config.wma_alpha)
attempt("another family", load(AutoModelForSequenceClassification, decalign, **trust))
attempt("processor", load(AutoProcessor, wma, **trust))
attempt("model, once known", load(AutoModelForSequenceClassification, wma))
json.dump(outcomes, sys.stdout)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    wma, decalign = tmp_path_factory.mktemp("wma"), tmp_path_factory.mktemp("decalign")
    BertWmaForSequenceClassification(BertWmaConfig(**BACKBONE, **TOKENS)).save_pretrained(wma)
    MultimodalProcessor(train_tokenizer(["a sentence with words"], vocab_size=60)).save_pretrained(wma)
    config = DecAlignConfig(feature_sizes={"audio": 3, "vision": 5}, num_hidden_layers=1)
    DecAlignForSequenceClassification(config).save_pretrained(decalign)
    return [wma, decalign]


@pytest.fixture(scope="module")
def outcomes(folders, tmp_path_factory) -> dict[str, str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path_factory.mktemp("home"))}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, folders)],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout[done.stdout.index("{") :])


def test_without_the_package_the_folder_says_what_to_install(outcomes):
    for what in ("model without the package", "processor without the package"):
        assert outcomes[what].startswith("ImportError")
        assert "pip install hf-mmalign" in outcomes[what]


def test_a_folder_of_ours_is_not_mistaken_for_a_newer_or_another_one(outcomes):
    for what in ("model unasked", "processor unasked"):
        assert "trust_remote_code=True" in outcomes[what]
        assert "upgrade" not in outcomes[what]


def test_the_folder_loads_without_importing_the_package_first(outcomes):
    assert outcomes["model"] == "BertWmaForSequenceClassification"
    assert outcomes["model, once known"] == "BertWmaForSequenceClassification"
    assert outcomes["changed field"] == 7.0
    assert outcomes["another family"] == "DecAlignForSequenceClassification"
    assert outcomes["processor"] == "MultimodalProcessor"


def test_stock_classes_load_the_folder_as_before(outcomes):
    assert outcomes["stock model"] == "BertModel"
    assert "Tokenizer" in outcomes["stock tokenizer"]


def test_with_the_package_imported_its_own_classes_load_and_nobody_is_asked(folders, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.input", pytest.fail, raising=False)
    monkeypatch.setattr("transformers.dynamic_module_utils.get_cached_module_file", pytest.fail)
    for trust in ({}, {"trust_remote_code": True}, {"trust_remote_code": False}):
        model = AutoModelForSequenceClassification.from_pretrained(folders[0], **trust)
        assert type(model) is BertWmaForSequenceClassification
        assert type(AutoConfig.from_pretrained(folders[0], **trust)) is BertWmaConfig
        assert type(AutoProcessor.from_pretrained(folders[0], **trust)) is MultimodalProcessor


def test_what_was_loaded_through_the_folder_is_saved_as_before(folders, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(folders[1])
    # What transformers does with classes that it found by `auto_map`.
    DecAlignConfig.register_for_auto_class()
    DecAlignForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in folders[1].iterdir())
    assert (tmp_path / "config.json").read_text() == (folders[1] / "config.json").read_text()


def test_the_package_gives_every_class_that_a_folder_may_name():
    AutoConfig.for_model("bert_wma")  # registers all
    ours = [config for config in CONFIG_MAPPING._extra_content.values() if is_ours(config)]
    assert {BertWmaConfig, DecAlignConfig} < set(ours)
    assert all(getattr(hf_mmalign, config.__name__) is config for config in ours)


class MyConfig(BertWmaConfig):
    """A user's own class, which our package cannot give to anyone."""


def test_a_class_derived_from_ours_is_not_looked_for_in_the_package(tmp_path):
    MyConfig(**BACKBONE, **TOKENS).save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
