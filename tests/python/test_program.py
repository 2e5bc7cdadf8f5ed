"""Finding the program, its errors, and what is imported."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import sae_run
from sae_run._errors import error_of
from sae_run._program import option, settings


def program_at(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho found >&2\nexit 3\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No program anywhere; the patch that it was made with."""
    monkeypatch.delenv("SAE_RUN_PROGRAM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    folders = {"posix_user": tmp_path / "user", None: tmp_path / "scripts"}
    monkeypatch.setattr(sysconfig, "get_preferred_scheme", lambda _: "posix_user")
    monkeypatch.setattr(sysconfig, "get_path", lambda _, scheme=None: str(folders[scheme]))
    return monkeypatch


def test_the_program_is_looked_for_in_an_order(no_program: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(sae_run.SaeRunError, match="there is no program `sae-run`") as raised:
        sae_run.plan("sweep.toml")
    assert "SAE_RUN_PROGRAM" in str(raised.value.hint)
    assert raised.value.exit_code is None
    for folder in ("path", "user", "scripts"):
        program = program_at(tmp_path / folder / "sae-run")
        assert sae_run.find_program() == program
    program = program_at(tmp_path / "other")
    no_program.setenv("SAE_RUN_PROGRAM", str(program))
    assert sae_run.find_program() == program
    no_program.setenv("SAE_RUN_PROGRAM", str(tmp_path))
    with pytest.raises(sae_run.SaeRunError, match="which is not a program"):
        sae_run.find_program()


def test_what_is_no_error_line_is_the_message(no_program: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program_at(tmp_path / "path/sae-run")
    no_program.setenv("PATH", f"{tmp_path / 'path'}:{os.defpath}")
    with pytest.raises(sae_run.SaeRunError, match="^found$") as raised:
        sae_run.show("job")
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    ("output", "message", "hint"),
    [
        ("note\nerror: a\nhint: b\n  log: c\nerror: d\n", "a", "b"),
        ("error: a\n  b\n  c\nhint: d\n", "a\n  b\n  c", "d"),
        ("error: a\n\n  tip: b\n\nUsage: c\n", "a", "b"),
        ("error: a\n", "a", None),
        ("Aborted\n", "Aborted", None),
        ("", "`sae-run` was ended by signal 9", None),
    ],
)
def test_errors_are_read(output: str, message: str, hint: str | None) -> None:
    error = error_of(-9, output)
    assert (error.message, error.hint, error.exit_code, error.output) == (message, hint, -9, output)
    assert str(error) == message + (f"\nhint: {hint}" if hint else "")


def test_settings_become_toml() -> None:
    values = {
        "train": {"k": 64, "lr": 1e-3, "transcode": True, "data_args": {"name": "a b"}},
        "vary.hookpoints": [["layers.0"], ['a"b\\']],
        "name": "x",
    }
    sets = settings(values)
    assert sets[::2] == ["--set"] * 6
    assert sets[1::2] == [
        "train.k=64",
        "train.lr=0.001",
        "train.transcode=true",
        'train.data_args={"name" = "a b"}',
        'vary.hookpoints=[["layers.0"], ["a\\"b\\\\"]]',
        'name="x"',
    ]


def test_options_are_those_of_the_command_line() -> None:
    assert option("k", 4) == ["-k", "4"]
    assert option("lr", -1.5) == ["--lr=-1.5"]
    assert option("evaluate", False) == ["--evaluate=false"]
    assert option("layers", [1, 2]) == ["--layers", "1", "2"]
    assert option("data_args", {"name": "x", "revision": "y"}) == ["--data_args", "name=x,revision=y"]
    assert option("revision", None) == []


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(sae_run.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *(["-c", code] if code else ["-m", "sae_run"]), *args]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_importing_is_light() -> None:
    code = "import sae_run, sys; print(*{'torch', 'pandas', 'numpy', 'tqdm', 'transformers'} & {*sys.modules})"
    assert python(code).stdout == "\n"


def test_the_module_is_the_program() -> None:
    version = subprocess.run([sae_run.find_program(), "--version"], capture_output=True, text=True, check=True)
    ended = python("", "--version")
    assert (ended.returncode, ended.stdout) == (0, version.stdout)
    assert python("", "--nonsense").returncode == 2


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("pandas", "sae_run.sql('SELECT 1 AS one')"),
        ("polars", "sae_run.sql('SELECT 1 AS one', as_='polars')"),
        ("torch", "sae_run.load('folder')"),
        ("torch", "sae_run.splice"),
        ("safetensors", "sae_run.load({folder!r})"),
        ("huggingface_hub", "sae_run.load('owner/name')"),
    ],
)
def test_a_missing_package_is_named(
    module: str, call: str, trained: sae_run.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(Path(trained.results().checkpoint[0]).parent)
    monkeypatch.setenv("SAE_RUN_RUNS_DIR", str(trained.runs_dir))
    call = call.format(folder=str(trained.runs_dir / folder))
    # As Python says that it is not installed.
    finder = f"""
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == {module!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Finder())
import sae_run
"""
    ended = python(finder + call)
    error = f"sae_run.SaeRunError: this needs the package `{module}`, which is not installed"
    assert error in ended.stderr, ended.stderr
    assert f"hint: pip install {module}" in ended.stderr


def test_names_that_are_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        sae_run.nonsense  # noqa: B018 (it raises)
    for name in sae_run.__all__:
        assert getattr(sae_run, name) is not None
