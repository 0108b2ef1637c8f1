"""What a user gets who installs the package instead of cloning the repository."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from hf_mmalign.runs.packaged_recipes import packaged_recipes

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]


def pinned(name: str) -> dict[str, str]:
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert all("==" in line and "@" not in line for line in lines), "a name and a version, no address"
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def test_lower_bounds_are_the_versions_of_constraints_min():
    oldest = pinned("constraints-min.txt")
    for requirement in REQUIREMENTS:
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        assert Version(oldest[canonicalize_name(requirement.name)]) == Version(bound.version), requirement


def test_constraints_are_no_older_than_the_bounds():
    versions = pinned("constraints.txt")
    assert [r for r in REQUIREMENTS if not r.specifier.contains(versions[canonicalize_name(r.name)])] == []


def build(source: Path, target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


def test_a_wheel_built_from_the_source_distribution_knows_the_recipes(tmp_path):
    pytest.importorskip("hatchling")
    with tarfile.open(build(ROOT, "sdist", tmp_path / "dist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    for name in ("constraints.txt", "constraints-min.txt", "Makefile", "tests/conftest.py", "model_cards"):
        assert (source / name).exists(), name
    with zipfile.ZipFile(build(source, "wheel", tmp_path / "dist")) as wheel:
        wheel.extractall(tmp_path / "site")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-m", "hf_mmalign.cli.main", "recipes"]
    listed = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listed.splitlines()[:-1]} == set(packaged_recipes())
    assert listed.splitlines()[-1] == f"They lie in {tmp_path / 'site' / 'hf_mmalign' / 'recipes'}."
