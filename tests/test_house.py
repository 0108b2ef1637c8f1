"""The order of the rooms: imports run one way, no two files import each other; and what tests keep to."""

import ast
import os
from pathlib import Path

import torch

PACKAGE = Path(__file__).resolve().parents[1] / "hf_mmalign"
TESTS = Path(__file__).resolve().parent
RESULTS = {"logits", "loss", "losses", "hidden_states", "last_hidden_state", "pooler_output"}

# What each room may import beside itself; `data` knows no models.
ALLOWED = {
    "ot": set(),
    "data": set(),
    "losses": {"ot"},
    "layers": {"ot"},
    "models": {"ot", "losses", "layers", "data"},
    "perturbation": {"models", "ot"},
    "evaluation": {"models", "perturbation", "losses", "data"},
    "reporting": {"evaluation", "models", "data"},
    "trainer": {"reporting", "models", "perturbation", "data", "losses"},
    "runs": {"reporting", "evaluation", "trainer", "perturbation", "models", "data"},
    "cli": {"runs", "reporting", "data"},
}


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that a file imports, at its top or inside functions, as parts below the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        start = (*parts[: len(parts) - node.level], *(node.module or "").split("."))
        start = tuple(part for part in start if part)
        for name in node.names:
            whole = (*start, name.name)
            is_module = (PACKAGE.joinpath(*whole).with_suffix(".py")).is_file() or PACKAGE.joinpath(*whole).is_dir()
            found.add(whole if is_module else start)
    return found


def test_imports_run_one_way():
    wrong = []
    for path in sorted(PACKAGE.glob("*/**/*.py")):
        room = path.relative_to(PACKAGE).parts[0]
        for module in imports_of(path):
            if module and module[0] != room and module[0] in ALLOWED and module[0] not in ALLOWED[room]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {'.'.join(module)}")
    assert not wrong, wrong


def test_every_room_has_its_place():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(ALLOWED)


def test_no_two_files_import_each_other():
    graph = {path.relative_to(PACKAGE).with_suffix("").parts: imports_of(path) for path in PACKAGE.rglob("*.py")}
    circles = [(one, other) for one, found in graph.items() for other in found if one in graph.get(other, ())]
    assert not [pair for pair in circles if pair[0] != pair[1]], circles


def test_evaluation_neither_draws_nor_writes():
    for path in sorted((PACKAGE / "evaluation").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not [word for word in ("matplotlib", "write_text", "open(", "save_figure") if word in text], path


def exact_comparisons(path: Path) -> list[str]:
    """Lines with `torch.equal` on what a model computed."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    equal = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "equal"]
    return [
        f"{path.relative_to(TESTS)}:{call.lineno}"
        for call in equal
        if any(isinstance(node, ast.Attribute) and node.attr in RESULTS for node in ast.walk(call))
    ]


def test_no_test_compares_results_of_a_model_bit_by_bit():
    """A model read from a file lies elsewhere in memory, and some CPUs then round the last bit of a product otherwise."""
    assert [line for path in sorted(TESTS.rglob("test_*.py")) for line in exact_comparisons(path)] == []


def test_each_process_of_the_suite_computes_with_as_many_threads_as_it_is_told():
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])
