"""A sweep's folders: each run has its own on every file system, and only the run asked for is found in it."""

import json
import re
import shutil
import unicodedata
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mmalign.cli.main import main
from hf_mmalign.runs import sweeps
from hf_mmalign.runs.evaluation import load_run
from hf_mmalign.runs.recipe import RecipeError, load_recipe
from hf_mmalign.runs.sweep_folders import cell_folders
from hf_mmalign.runs.sweeps import Run, Sweep, read_sweep, run_sweep

RECIPE = {
    "dataset": "digits-views",
    "model_type": "decalign",
    "hidden_size": 8,
    "learning_rate": "1e-3",
    "robustness": False,
}


def read(folder: Path, section: dict, recipe: dict | None = None) -> Sweep:
    values = RECIPE | {"output_dir": str(folder / "out"), "sweep": section} | (recipe or {})
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return read_sweep(load_recipe(path), {})


def runs_of(sweep: Sweep) -> list[Run]:
    return [
        Run(sweep, variant, cell, seed, fold)
        for variant in sweep.variants
        for fold in sweep.folds
        for cell in variant.cells
        for seed in sweep.seeds
    ]


def pretend_training(recipe, with_robustness) -> None:
    """What `train` leaves; the score tells the run."""
    folder = Path(recipe.values["output_dir"])
    scores = {"accuracy": float(recipe.values["learning_rate"])}
    results = {"primary_metric": "accuracy", "train": {"seconds": 1.0}, "validation": scores, "test": scores}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The folders of the runs that were trained, which takes no time here."""
    folders = []

    def train(recipe, with_robustness):
        folders.append(recipe.values["output_dir"])
        pretend_training(recipe, with_robustness)

    monkeypatch.setattr(sweeps, "train_recipe", train)
    return folders


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "./a"], r"the variant './a' holds '/'"),
        (["../x"], r"'\.\./x' holds '/'"),
        (["/tmp/x"], "holds '/'"),
        (["C:\\x"], "holds ':'"),
        (["a\\b"], "holds '\\\\\\\\'"),
        ([".."], "begins or ends with a dot"),
        (["a."], "begins or ends with a dot"),
        (["a "], "begins or ends with a dot or a space"),
        ([""], "is empty"),
        (["a\nb"], "cannot be printed"),
        (["a\0b"], "cannot be printed"),
        (["Nul"], "device on Windows"),
        (["com1.x"], "device on Windows"),
        (["ü" * 100], "is 200 bytes long, 120 at most"),
        ([1], "variant 1 is int, not text; put quotes"),
        (["sweep.json"], "a file of the report"),
        (["grid-b.png", "b"], "a file of the report"),
        (["WMA", "wma"], "'WMA' and 'wma' differ in upper and lower case"),
        (["\u00fc", "u\u0308"], "how accents are written"),
    ],
)
def test_a_variant_whose_name_is_no_folder_of_its_own_is_refused(tmp_path, names, message):
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, {"variants": {name: {} for name in names}})
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


def test_the_command_refuses_before_it_writes(tmp_path, capsys):
    section = {"variants": {"../../outside": {}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE | {"output_dir": str(tmp_path / "o"), "sweep": section}))
    assert main(["sweep", str(tmp_path / "r.yaml")]) == 2
    assert "r.yaml: the variant '../../outside' holds '/'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"learning_rate": ["1e-3", "5e-4"]}, ["learning_rate=1e-3", "learning_rate=5e-4"]),
        (
            {"disabled_losses": [["hete"]], "learning_rate": ["1e-3", 0.1]},
            ["disabled_losses=['hete'],learning_rate=1e-3", "disabled_losses=['hete'],learning_rate=0.1"],
        ),
        ({"use_peft": [True, False]}, ["use_peft=True", "use_peft=False"]),
    ],
)
def test_simple_cells_are_named_by_their_values(tmp_path, values, names):
    sweep = read(tmp_path, {"variants": {"plain": values}, "seeds": [0, 3]})
    assert [run.folder for run in runs_of(sweep)] == [
        tmp_path / "out" / "plain" / name / f"seed={seed}" for name in names for seed in (0, 3)
    ]


def test_cells_that_read_alike_have_folders_of_their_own(tmp_path):
    values = ["x/y", "x_y", "x\\y", "A", "a", "b" * 300, "b" * 299, "v.", "v_", "\u00fc", "u\u0308", "../../z"]
    sweep = read(tmp_path, {"variants": {"v": {"run_name": values}}, "seeds": [0]})
    folders = [run.folder for run in runs_of(sweep)]
    names = [folder.parent.name for folder in folders]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(values)
    assert names[0].startswith("run_name=x_y-")
    assert names[1] == "run_name=x_y", "a name that needs no change has none"
    assert all(folder.parent.parent == tmp_path / "out" / "v" for folder in folders)
    again = read(tmp_path, {"variants": {"v": {"run_name": [*values[::-1], "another"]}}, "seeds": [0]})
    assert set(folders) < {run.folder for run in runs_of(again)}, "killed and extended, the sweep finds its runs"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=400), st.text()), min_size=1, max_size=6, unique=True))
def test_any_values_get_names_that_every_file_system_takes(values):
    cells = [(("one", one), ("other", other)) for one, other in values]
    names = cell_folders(cells)
    assert names == cell_folders(cells)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(cells)
    for name in names:
        assert len(name.encode()) <= 143  # the least of usual file systems
        assert name.isprintable()
        assert not re.search(r'[<>:"/\\|?*]', name)
        assert name[-1] not in ". "


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"variants": {"v": {"learning_rate": ["1e-3", 0.001]}}}, "learning_rate=1e-3 and learning_rate=0.001 are one"),
        ({"variants": {"v": {"seed": [0, 1]}}}, "the variant 'v' has 'seed', which the sweep itself sets"),
        ({"variants": {"v": {"output_dir": "elsewhere"}}}, "has 'output_dir'"),
    ],
)
def test_cells_that_would_be_one_run_are_refused(tmp_path, section, message):
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, section)


def test_a_run_of_an_edited_recipe_is_not_reported_as_this_one(tmp_path, trained):
    section = {"seeds": [0, 1]}
    run_sweep(read(tmp_path, section))
    assert len(trained) == 2
    report = (tmp_path / "out" / "sweep.md").read_text()
    edited = read(tmp_path, {"seeds": [2, 1]}, {"learning_rate": "5e-4", "weight_decay": 0.1})
    differences = "learning_rate is '1e-3' there and '5e-4' here; weight_decay is not set there and 0.1 here"
    with pytest.raises(RecipeError, match=f"seed=1 holds a run with other settings than this sweep's: {differences}"):
        run_sweep(edited)
    assert len(trained) == 2, "refused before anything runs"
    assert (tmp_path / "out" / "sweep.md").read_text() == report
    shutil.rmtree(tmp_path / "out" / "sweep" / "seed=1")
    run_sweep(edited)
    assert [Path(folder).name for folder in trained[2:]] == ["seed=2", "seed=1"]


def test_what_changes_no_number_may_differ(tmp_path, trained):
    run_sweep(read(tmp_path, {"seeds": [0]}, {"dataset_path": "here"}))
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(tmp_path / "out", moved / "out")
    same = {"learning_rate": 0.001, "dataset_path": "there", "disable_tqdm": True, "normalize_features": False}
    same |= {"dataset_name": "Toys", "model_title": "Mine", "license": "mit"}
    outcome = run_sweep(read(moved, {"seeds": [0]}, same))
    assert len(trained) == 1
    assert outcome["variants"]["sweep"]["runs"]["0"]["test"]["accuracy"] == 1e-3


def test_a_killed_run_does_not_go_on_with_another_recipe(tmp_path, monkeypatch, trained):
    def killed(recipe, with_robustness):
        (Path(recipe.values["output_dir"]) / "checkpoint-5").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "train_recipe", killed)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(read(tmp_path, {"seeds": [0]}))
    with pytest.raises(RecipeError, match=r"recipe.yaml but no config.json yet: its training has not ended"):
        load_run(tmp_path / "out" / "sweep" / "seed=0")
    with pytest.raises(RecipeError, match="hidden_size is 8 there and 16 here"):
        run_sweep(read(tmp_path, {"seeds": [0]}, {"hidden_size": 16}))
    run_sweep(read(tmp_path, {"seeds": [0]}))
    assert len(trained) == 1


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (None, "results.json but no recipe.yaml"),
        ("a: [", "recipe.yaml is no YAML"),
        ("- 1", "must hold `key: value`"),
    ],
)
def test_a_finished_run_that_cannot_be_told_is_refused(tmp_path, trained, recipe, message):
    sweep = read(tmp_path, {"seeds": [0]})
    run_sweep(sweep)
    file = tmp_path / "out" / "sweep" / "seed=0" / "recipe.yaml"
    file.unlink()
    if recipe is not None:
        file.write_text(recipe)
    with pytest.raises(RecipeError, match=message):
        run_sweep(sweep)


def test_missing_robustness_of_a_finished_run_reads_the_data_where_they_are_now(tmp_path, monkeypatch, trained):
    run_sweep(read(tmp_path, {"seeds": [0]}, {"dataset_path": "here"}))
    asked = []
    monkeypatch.setattr(sweeps, "robustness", lambda folder, **keys: asked.append((folder, keys)))
    run_sweep(read(tmp_path, {"seeds": [0]}, {"dataset_path": "there", "robustness": True}))
    assert asked == [(tmp_path / "out" / "sweep" / "seed=0", {"dataset_path": "there"})]
    assert len(trained) == 1
