"""Recipes and arguments from strangers are read within limits, or refused by name."""

import os
import subprocess
import sys

import pytest
import yaml

from hf_mmalign.cli.main import main
from hf_mmalign.runs.recipe import RecipeError, load_recipe, parse_overrides
from hf_mmalign.runs.strict_yaml import parse_yaml


@pytest.fixture
def refusal(tmp_path):
    """What the command says about a recipe. A process of its own reads it, so that a test fails rather than hangs."""

    def call(content: bytes, name: str = "recipe.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(content)
        statements = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from hf_mmalign.cli.main import main
sys.exit(main(["train", sys.argv[1]]))
"""
        command = [sys.executable, "-c", statements, str(path)]
        met = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert met.returncode == 2, met.stderr[-2000:]
        assert met.stderr.startswith(f"hf-mmalign: {tmp_path}")
        assert len(met.stderr) < 1500
        return met.stderr

    return call


def laughs(before: str) -> bytes:
    """Lines that each hold the one before ten times."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, 12):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} {before.replace('ALIASES', aliases)}")
    return "\n".join(lines).encode()


ATTACKS = {
    "laughs": (laughs("[ALIASES]"), "aliases unfold to more than"),
    "merged laughs": (laughs("{<<: [ALIASES]}"), "aliases unfold to more than"),
    "a long text many times": (b"a: &a " + b"x" * 10**5 + b"\nb: [" + b"*a, " * 10**4 + b"]\n", "aliases unfold"),
    "a part in itself": (b"a: &a [*a]\n", "within that part"),
    "a merge of itself": (b"a: &a {<<: *a}\n", "within that part"),
    "deep lists": (b"a: " + b"[" * 10**5, "nested in more than 50 levels"),
    "deep mappings": (b"a: " + b"{a: " * 60 + b"1" + b"}" * 60, "nested in more than 50 levels"),
    "deep by aliases": (
        b"a0: &a0 [1]\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (i, i, i - 1) for i in range(1, 5000)),
        "nested in more than 50 levels",
    ),
    "large": (b"a: 1\n" * 10**6, "more than 262144 characters"),
    "a double key": (b"rate: 1\nsteps: 2\nrate: 3\n", "line 3, column 1"),
    "another encoding": ("name: zwölf\n".encode("latin1"), "is not UTF-8"),
    "half a character": (b'name: "\\ud800"\n', "surrogate"),
    "a false claim": (b"fp16: !!bool maybe\n", "not what it claims"),
    "the 99th of a month": (b"name: 2026-11-99\n", "not what it claims"),
    "too many digits": (b"steps: " + b"9" * 5000, "not what it claims"),
    "an object": (b"a: !!python/object/apply:os.system [ls]\n", "no YAML"),
    "base of itself": (b"base: recipe.yaml\n", "leads back to where it started"),
    "base is a number": (b"base: 5\n", "base is 5; expected the path of a recipe"),
    "base is a list": (b"base: [a.yaml]\n", "expected the path of a recipe"),
    "base is a device": (b"base: /dev/zero\n", "No regular file"),
    "base is a folder": (b"base: .\n", "No regular file"),
    "base is nowhere": (b"base: nowhere.yaml\n", "nowhere.yaml: No such file"),
    "base is no path": (b'base: "a\\0b"\n', "expected the path of a recipe"),
    "base has too long a name": (b"base: " + b"x" * 300 + b"\n", "File name too long"),
}


@pytest.mark.parametrize(("content", "named"), ATTACKS.values(), ids=ATTACKS)
def test_a_hostile_recipe_is_refused(refusal, content, named):
    assert named in refusal(content)


def test_a_circle_of_bases_is_named(tmp_path, refusal):
    (tmp_path / "one.yaml").write_text("base: two.yaml\n")
    (tmp_path / "two.yaml").write_text("base: ./recipe.yaml\n")
    message = refusal(b"base: one.yaml\n")
    assert "two.yaml: base leads back to where it started" in message
    assert "recipe.yaml -> " in message


def test_a_long_chain_of_bases_is_refused(tmp_path, refusal):
    for index in range(1000):
        (tmp_path / f"{index}.yaml").write_text(f"base: {index + 1}.yaml\n")
    assert "recipe.yaml has more than 20 bases" in refusal(b"base: 0.yaml\n")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path, refusal):
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: No regular file" in refusal(b"base: pipe\n")


@pytest.mark.parametrize(
    ("line", "named"), [("x" * 1000 + ": 1", "unknown key 'xxx"), ("seed: " + "x" * 10**5, "seed is 'xxx")]
)
def test_errors_quote_the_beginning_of_what_is_long(tmp_path, capsys, line, named):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model_type: vilt_wma\ndataset: digits-views\n{line}\n")
    assert main(["train", str(recipe)]) == 2
    message = capsys.readouterr().err
    assert named in message
    assert len(message) < 500


@pytest.mark.parametrize("word", ["{", "[1, 2", "a: b: c", "!!int x", "[" * 1000, "\udcff"])
def test_a_word_that_is_no_yaml_is_named(tmp_path, capsys, word):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model_type: vilt_wma\n")
    assert main(["train", str(recipe), "--seed", word]) == 2
    assert "the command line: --seed is " in capsys.readouterr().err
    assert main(["data", "inspect", "digits-views", "--option", f"seed={word}"]) == 2
    assert "--option 'seed=" in capsys.readouterr().err


def test_the_recipe_in_a_saved_folder_is_read_with_the_same_care(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_bytes(ATTACKS["merged laughs"][0])
    assert main(["evaluate", str(tmp_path)]) == 2
    assert f"{tmp_path / 'recipe.yaml'} is no YAML" in capsys.readouterr().err


HONEST = """
defaults: &defaults {rate: 1.e-3, name: "zw\\u00f6lf"}
runs:
  - {<<: *defaults, steps: 3}
  - *defaults
flags: [yes, No, null, ~, 0x1F, 1_000, .inf]
"on": {on: 1}
text: |
  two
  lines
"""


def test_honest_yaml_is_read_as_ever(tmp_path):
    assert parse_yaml(HONEST) == yaml.safe_load(HONEST)
    assert parse_yaml("") is None
    path = tmp_path / "recipe.yaml"
    path.write_text("\ufeffrate: 1\n", encoding="utf-8")  # as Windows' editor begins a file
    assert load_recipe(path).values["rate"] == 1


def test_a_recipe_is_a_base_of_two(tmp_path):
    """A base may be met again on another way; only a circle is refused."""
    (tmp_path / "base.yaml").write_text("rate: 1\n")
    (tmp_path / "middle.yaml").write_text("base: base.yaml\nsteps: 2\n")
    os.symlink(tmp_path / "middle.yaml", tmp_path / "link.yaml")
    (tmp_path / "recipe.yaml").write_text("base: link.yaml\n")
    values = load_recipe(tmp_path / "recipe.yaml").values
    assert (values["rate"], values["steps"]) == (1, 2)


def test_errors_of_overrides_are_recipe_errors():
    with pytest.raises(RecipeError, match=r"--name is 'a: b: c', which is no YAML.*quotes"):
        parse_overrides(["--name", "a: b: c"])
    assert parse_overrides(["--name", '"a: b: c"']) == {"name": "a: b: c"}
