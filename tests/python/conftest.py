"""What the tests share: the program, folders that are trained in a second, and what transformers computes."""

import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures"
MODEL, TEXTS = FIXTURES / "tiny-llama", FIXTURES / "tiny.jsonl"
BUILT = ROOT / "target/debug/sae-run"

# An installed package is tested where there is one.
if find_spec("sae_run") is None:
    sys.path.insert(0, str(ROOT / "runner/python"))
if "SAE_RUN_PROGRAM" not in os.environ and BUILT.is_file():
    os.environ["SAE_RUN_PROGRAM"] = str(BUILT)
# Tiny tensors are slower on several threads, and much slower beside other programs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read when sparsify is imported: its kernels need a GPU.
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"

import sae_run  # noqa: E402 (it may just have been found)

SWEEP = f"""
name = "tiny"
[train]
model = {str(MODEL)!r}
dataset = {str(TEXTS)!r}
ctx_len = 64
batch_size = 8
max_examples = 64
save_every = 5
[vary]
k = [4, 8]
expansion_factor = [2]
hookpoints = [["layers.0"], ["layers.1.mlp", "layers.2"]]
[launch]
device = "cpu"
threads = 1
retries = 0
"""
# Every kind of SAE that is trained, by the name of its job.
KINDS = {
    "topk": {"hookpoints": ["layers.1", "layers.0.mlp"]},
    "groupmax": {"activation": "groupmax"},
    "transcoder": {"transcode": True, "hookpoints": ["layers.0.mlp"]},
    "skip_transcoder": {
        "transcode": True,
        "skip_connection": True,
        "hookpoints": ["layers.1.self_attn", "layers.0.mlp"],
    },
    "skip": {"skip_connection": True},
    "multi_topk": {"multi_topk": True},
    "seeds": {"init_seeds": [0, 1], "hookpoints": ["layers.0", "layers.1", "layers.2"]},
    "bfloat16": {"dtype": "bfloat16"},
}


@pytest.fixture(scope="session", autouse=True)
def _separate_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache for these tests, with the recipe engine and the models of the user's."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sae-run"
    users = Path(os.environ.get("SAE_RUN_CACHE") or users)
    cache = tmp_path_factory.mktemp("cache")
    for name in ("engine", "wasm", "models"):
        if (users / name).is_dir():
            (cache / name).symlink_to(users / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_RUN_CACHE", str(cache))
        # No test asks the real Hub, not even by a mistyped name.
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        yield


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the test, with `tiny.toml`: four jobs, six SAEs, eight updates."""
    (tmp_path / "tiny.toml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> sae_run.Run:
    """A sweep with a job of each of `KINDS`, evaluated on held-out sequences."""
    folder = tmp_path_factory.mktemp("kinds")
    jobs = [f"    yield job(dict({settings}), name={name!r})\n" for name, settings in KINDS.items()]
    (folder / "jobs.py").write_text("def plan(request):\n" + "".join(jobs))
    keys = "eval_fraction = 0.05\neval_max_examples = 1000\nk = 4\nexpansion_factor = 4\nhookpoints = ['layers.1']\n"
    sweep = SWEEP.split("[vary]")[0] + keys
    launch = "[launch]" + SWEEP.split("[launch]")[1]
    (folder / "kinds.toml").write_text(f"recipe = 'jobs.py'\nruns_dir = {str(folder / 'runs')!r}\n{sweep}{launch}")
    return sae_run.run(folder / "kinds.toml", {"name": "kinds"}, progress=False)


def job_of(run: sae_run.Run, name: str) -> sae_run.Job:
    return next(job for job in run.jobs if job.name == name)


def texts(n: int) -> list[str]:
    """The beginnings of the first texts of the data set that are a line."""
    documents = (json.loads(line)["text"] for line in TEXTS.read_text(encoding="utf-8").split("\n") if line)
    return [text[:100] for text in documents if text and len(text.splitlines()) == 1][:n]
