"""Recipes by name, from a folder that has nothing to do with the repository."""

import shutil
from pathlib import Path

import pytest

from hf_mmalign.cli.main import main
from hf_mmalign.runs import packaged_recipes as module
from hf_mmalign.runs.packaged_recipes import packaged_recipes
from hf_mmalign.runs.recipe import RecipeError, load_recipe
from hf_mmalign.runs.sweeps import read_sweep

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(params=["checkout", "installed"])
def elsewhere(request, tmp_path, monkeypatch) -> Path:
    """An empty current folder; the package is this checkout, or an installed one with the recipes inside."""
    if request.param == "installed":
        shutil.copytree(RECIPES, tmp_path / "site" / "hf_mmalign" / "recipes")
        monkeypatch.setattr(module, "_PACKAGE", tmp_path / "site" / "hf_mmalign")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", ["wma/smoke", "wma/smoke.yaml", "recipes/wma/smoke.yaml"])
def test_a_name_is_a_recipe_from_anywhere(elsewhere, name, capsys):
    assert main(["train", name, "--list-arguments"]) == 0
    assert "wma_alpha" in capsys.readouterr().out
    recipe = load_recipe(name)
    assert recipe.values["dataset"] == "digits-captions"
    assert recipe.values["output_dir"] == "runs/wma-smoke", "in the current folder"
    assert list(elsewhere.iterdir()) == []


def test_bases_of_named_recipes_and_of_their_variants_are_found(elsewhere):
    assert load_recipe("wma/demo").values["model_type"] == "vilt_wma"
    sweep = read_sweep(load_recipe("decalign/ravdess-study"), {})
    models = {variant.name: variant.recipe.values["model_type"] for variant in sweep.variants}
    assert models["mlp"] == "mmalign_fusion"
    assert sweep.folder == Path("runs/decalign-ravdess-study")


def test_a_recipe_of_ones_own_may_start_from_a_name(elsewhere):
    (elsewhere / "mine.yaml").write_text("base: wma/smoke\nwma_alpha: 3\n")
    values = load_recipe("mine.yaml").values
    assert (values["wma_alpha"], values["model_type"], values["output_dir"]) == (3, "vilt_wma", "runs/mine")
    (elsewhere / "compare.yaml").write_text(
        "base: mine.yaml\nsweep: {variants: {mine: {}, other: {base: fusion/smoke}}}\n"
    )
    mine, other = read_sweep(load_recipe("compare.yaml"), {}).variants
    assert (mine.recipe.values["wma_alpha"], other.recipe.values["model_type"]) == (3, "mmalign_fusion")


def test_a_file_is_meant_before_a_name(elsewhere):
    (elsewhere / "wma").mkdir()
    assert load_recipe("wma/smoke").values["dataset"] == "digits-captions"
    (elsewhere / "wma" / "smoke.yaml").write_text("dataset: mine\n")
    assert load_recipe("wma/smoke.yaml").values["dataset"] == "mine"


@pytest.mark.parametrize(
    ("name", "near"), [("wma/smok", "'wma/smoke'"), ("smoke", "'wma/smoke'"), ("nowhere/wma/demo.yaml", "'wma/demo'")]
)
def test_what_is_near_a_wrong_name_is_said(elsewhere, name, near, capsys):
    assert main(["train", name]) == 2
    error = capsys.readouterr().err
    assert f"{name}: No such file" in error
    assert near in error
    assert "`hf-mmalign recipes`" in error


def test_a_name_leads_to_nothing_outside(elsewhere):
    (elsewhere.parent / "secret.yaml").write_text("dataset: digits-views\n")
    for name in ("wma/../../../secret", "recipes/../secret", "/wma/smoke", ""):
        with pytest.raises(RecipeError):
            load_recipe(name)


def test_all_are_listed(elsewhere, capsys):
    assert main(["recipes"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(packaged_recipes())
    assert len(lines) == len(list(RECIPES.rglob("*.yaml")))
    assert last == f"They lie in {module.recipes_folder()}."
