from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hf_mmalign.runs.build import read_arguments
from hf_mmalign.runs.recipe import RecipeError, load_recipe, parse_overrides, split_arguments

# But those of `hf-mmalign efficiency`, which train nothing: see test_efficiency.py.
RECIPES = sorted(
    path for path in (Path(__file__).resolve().parents[2] / "recipes").rglob("*.yaml") if path.stem != "efficiency"
)


@dataclass
class Numbers:
    rate: float = 0.1
    steps: int = 1
    ratios: list[float] = field(default_factory=list)
    size: int | list[int] = 4
    name: str | None = None


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def parse(folder: Path, text: str) -> dict:
    recipe = load_recipe(write(folder, text))
    del recipe.values["output_dir"]
    return split_arguments(recipe, {"numbers": Numbers})["numbers"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_of_the_repository_is_valid(path):
    from hf_mmalign.runs.sweeps import read_sweep

    recipe = load_recipe(path)
    read_arguments(recipe)
    read_sweep(recipe, {})


def test_what_a_card_says_of_data_and_model_is_not_said_of_others(tmp_path):
    write(tmp_path, "dataset: mmsa\ndataset_name: CMU-MOSI\nmodel_title: The one\nlicense: mit\n", "base.yaml")
    same = load_recipe(write(tmp_path, "base: base.yaml\ndataset: mmsa\nseed: 1\n")).values
    assert (same["dataset_name"], same["license"]) == ("CMU-MOSI", "mit")
    assert "model_title" not in same
    assert "dataset_name" not in load_recipe(write(tmp_path, "base: base.yaml\ndataset: multibench\n")).values
    overridden = load_recipe(tmp_path / "base.yaml").override({"dataset": "image-text"}, "the command line")
    assert "dataset_name" not in overridden.values
    named = overridden.override({"dataset": "mmimdb", "dataset_name": "MM-IMDb"}, "the command line")
    assert named.values["dataset_name"] == "MM-IMDb"


def test_a_recipe_on_a_file_format_says_which_data_it_is_for():
    said = {path.name: load_recipe(path).values.get("dataset_name") for path in RECIPES}
    assert said["mosei.yaml"] == said["mosei-ablations.yaml"] == "CMU-MOSEI"
    assert said["sims.yaml"] == "CH-SIMS"
    assert said["mosi-official.yaml"] == "CMU-MOSI"
    assert all(name is not None or "smoke" in file or file == "demo.yaml" for file, name in said.items()), said


def test_values_become_what_the_field_asks_for(tmp_path):
    text = "rate: 2e-5\nsteps: 3\nratios: [0, 0.5, 1]\nsize: 8\nname: null\n"
    assert parse(tmp_path, text) == {"rate": 2e-5, "steps": 3, "ratios": [0.0, 0.5, 1.0], "size": 8, "name": None}
    assert parse(tmp_path, "rate: 1\nratios: 0.5\n") == {"rate": 1.0, "ratios": [0.5]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ratee: 1\n", r"recipe.yaml: unknown key 'ratee'. Did you mean 'rate'\?"),
        ("rate: fast\n", r"rate is 'fast' \(str\); expected float"),
        ("steps: 1.5\n", r"steps is 1.5 \(float\); expected int"),
        ("ratios: [a]\n", r"ratios is \['a'\]"),
        ("- a list\n", "key: value"),
        ("a: [\n", "no YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        parse(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_a_recipe_builds_on_its_base_and_the_command_line_wins(tmp_path):
    write(tmp_path, "rate: 0.5\nsteps: 2\noutput_dir: elsewhere\n", "base.yaml")
    recipe = load_recipe(write(tmp_path, "base: base.yaml\nsteps: 3\n", "child.yaml"))
    recipe = recipe.override(parse_overrides(["--rate", "7e-1"]), "the command line")
    assert split_arguments(recipe.override({"output_dir": None}, ""), {"n": WithOutput})["n"] == {
        "rate": 0.7,
        "steps": 3,
        "output_dir": None,
    }
    assert load_recipe(tmp_path / "child.yaml").values["output_dir"].endswith("child")


@dataclass
class WithOutput(Numbers):
    output_dir: str | None = None


def test_errors_say_where_a_value_came_from(tmp_path):
    recipe = load_recipe(write(tmp_path, "rate: 1\n")).override({"steps": "many"}, "the command line")
    with pytest.raises(RecipeError, match="the command line: steps"):
        split_arguments(recipe, {"n": WithOutput})


def test_overrides():
    words = [
        "--rate",
        "2e-5",
        "--fp16",
        "--modalities",
        "text",
        "image",
        "--name=x",
        "--weight-decay",
        "-1",
        "--d",
        "{a: 1}",
    ]
    assert parse_overrides(words) == {
        "rate": "2e-5",
        "fp16": True,
        "modalities": ["text", "image"],
        "name": "x",
        "weight_decay": -1,
        "d": {"a": 1},
    }
    with pytest.raises(RecipeError, match="stands before"):
        parse_overrides(["0.5"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: digits-views\n", "'model_type' is missing"),
        ("model_type: vilt_wma\n", "'dataset' is missing"),
        ("model_type: vilt_wmaa\ndataset: digits-views\n", "model_type 'vilt_wmaa' is unknown"),
        ("model_type: vilt_wma\ndataset: digits-views\nwma_aplha: 1\n", "Did you mean 'wma_alpha'"),
        ("model_type: vilt_wma\ndataset: digits-views\nlearning_rat: 1\n", "Did you mean 'learning_rate'"),
    ],
)
def test_recipes_are_checked_as_a_whole(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        read_arguments(load_recipe(write(tmp_path, text)))


def test_a_recipe_sheds_keys_of_its_base(tmp_path):
    base = "model_type: decalign\ndataset: digits-views\nnum_prototypes: 4\nnum_hidden_layers: 1\nhidden_size: 8\n"
    write(tmp_path, base, "base.yaml")
    child = "base: base.yaml\nmodel_type: mmalign_fusion\n"
    message = (
        r"recipe\.yaml: mmalign_fusion has no key 'num_prototypes', 'num_hidden_layers', set in .*base\.yaml for another "
        r"model\. Do without: `drop: \[num_prototypes, num_hidden_layers\]`"
    )
    with pytest.raises(RecipeError, match=message):
        read_arguments(load_recipe(write(tmp_path, child)))
    recipe = load_recipe(write(tmp_path, child + "drop: [num_prototypes, num_hidden_layers]\n"))
    assert read_arguments(recipe).config == {"hidden_size": 8}
    assert "drop" not in recipe.values
    decalign = load_recipe(tmp_path / "base.yaml").override({"model_type": "mmalign_fusion"}, "the command line")
    with pytest.raises(RecipeError, match="the command line: mmalign_fusion has no key 'num_prototypes'"):
        read_arguments(decalign)
    # The keys of a base are what its own base leaves, and a key may be dropped and set anew.
    grandchild = load_recipe(
        write(tmp_path, "base: recipe.yaml\ndrop: hidden_size\nhidden_size: 16\n", "grandchild.yaml")
    )
    assert read_arguments(grandchild).config == {"hidden_size": 16}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: base.yaml\ndrop: [stepz]\n", r"drop has 'stepz', which is not set there. Did you mean 'steps'\?"),
        ("base: base.yaml\ndrop: {a: 1}\n", r"drop has \{'a': 1\}"),
        ("drop: [steps]\nsteps: 1\n", "drop has 'steps', which is not set there"),
    ],
)
def test_only_keys_of_a_base_can_be_shed(tmp_path, text, message):
    write(tmp_path, "steps: 2\n", "base.yaml")
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


@pytest.mark.parametrize(
    ("word", "field", "value"),
    [
        ("no", "eval_strategy", "no"),
        ("off", "save_strategy", "no"),
        ("no", "use_cpu", False),
        ("true", "resume_from_checkpoint", True),
        ("a/checkpoint-3", "resume_from_checkpoint", "a/checkpoint-3"),
        ('"no"', "license", "no"),
    ],
)
def test_yaml_s_booleans_meet_what_a_field_expects(tmp_path, word, field, value):
    text = f"model_type: decalign\ndataset: digits-views\n{field}: {word}\n"
    assert read_arguments(load_recipe(write(tmp_path, text))).training[field] == value
