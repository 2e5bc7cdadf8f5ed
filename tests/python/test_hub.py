"""SAEs that the program publishes, from a Hub on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sae_run

for module in ("huggingface_hub", "torch", "safetensors"):
    pytest.importorskip(module)

# In a process of its own: huggingface_hub reads its settings when it is imported.
SCRIPT = """
import sys
import sae_run, torch
published, (repo, patterns) = sae_run.load("topk", runs_dir=sys.argv[1]), sys.argv[2:]
torch.manual_seed(0)
x = torch.randn(9, 32)
for name, sae in sae_run.load(repo, hookpoints=patterns).items():
    same = torch.equal(sae(x).sae_out, published[name.removeprefix("topk/")](x).sae_out)
    print(name, sae.hookpoint, same)
"""
BOTH = "layers.0.mlp layers.0.mlp True\nlayers.1 layers.1 True\n"


@pytest.mark.parametrize(
    ("jobs", "layout", "pattern", "expected"),
    [
        (["topk"], "sparsify", "*", BOTH),
        (["topk"], "saelens", "*", BOTH),
        # The second layout is of the same SAEs.
        (["topk"], "sparsify,saelens", "*", BOTH),
        (["topk", "groupmax"], "sparsify", "topk/*.mlp", "topk/layers.0.mlp layers.0.mlp True\n"),
    ],
)
def test_published_saes_are_loaded(
    jobs: list[str], layout: str, pattern: str, expected: str, trained: sae_run.Run, tmp_path: Path
) -> None:
    hub = sae_run.find_program().parent / "examples/serve"
    if not hub.is_file():
        pytest.skip("the Hub for tests is not built: `cargo build -p sae-run-hub-server --example serve`")
    with subprocess.Popen([hub], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        variables = dict(pair.split("=") for pair in server.stdout.readline().split()[1:])
        package = str(Path(sae_run.__file__).parents[1])
        env = {**os.environ, **variables, "HF_HOME": str(tmp_path), "PYTHONPATH": package}
        options = ["--repo=me/saes", f"--layout={layout}", f"--runs-dir={trained.runs_dir}", "--force", "--quiet"]
        subprocess.run([sae_run.find_program(), "publish", *options, *jobs], env=env, check=True)
        command = [sys.executable, "-c", SCRIPT, str(trained.runs_dir), "me/saes", pattern]
        loaded = subprocess.run(command, env=env, capture_output=True, text=True)
    assert loaded.stdout == expected, loaded.stderr
