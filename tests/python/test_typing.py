"""What type checkers and linters say of the package."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT

import sae_run

PACKAGE = Path(sae_run.__file__).parent
# What a user's checker knows of the results.
USE = """
import pandas
import polars
import sae_run
from typing import assert_type
assert_type(sae_run.results(), pandas.DataFrame)
assert_type(sae_run.sql("SELECT 1", as_="polars"), polars.DataFrame)
assert_type(sae_run.run("x.toml").results(), pandas.DataFrame)
saes = sae_run.load("job", dtype="bfloat16")
assert_type(saes, dict[str, sae_run.Sae])
assert_type(sae_run.run("x.toml").jobs[0].load(), dict[str, sae_run.Sae])
"""


def checked(*args: str) -> None:
    env = {**os.environ, "MYPYPATH": str(PACKAGE.parent)}
    ended = subprocess.run([sys.executable, "-m", *args], cwd=ROOT, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_mypy_finds_nothing_and_sees_the_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(USE.replace("from typing", "from typing_extensions"))
    checked("mypy", "--strict", str(PACKAGE), str(tmp_path / "use.py"))


def test_ruff_finds_nothing() -> None:
    if find_spec("ruff") is None:
        pytest.skip("ruff is not installed")
    folders = [str(PACKAGE), "tests/python"]
    checked("ruff", "check", *folders)
    checked("ruff", "format", "--check", *folders)
