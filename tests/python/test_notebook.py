"""The notebook of the documentation, from its first cell to its last."""

import os
from pathlib import Path

import pytest
from conftest import ROOT

import sae_run

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
for module in ("ipykernel", "matplotlib", "pandas", "torch", "transformers"):
    pytest.importorskip(module)

NOTEBOOK = ROOT / "docs/notebook.ipynb"
MODEL = "models/SmolLM2-135M-Instruct"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (Path(os.environ["SAE_RUN_CACHE"]) / MODEL).is_dir():
        pytest.skip("the demo's model is not there; `make demo` puts it there")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored outputs"
    monkeypatch.setenv("SAE_RUN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(Path(sae_run.__file__).parents[1]))
    monkeypatch.delenv("OMP_NUM_THREADS")
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    shown = "".join(str(output.get("data", {}).get("text/plain", output.get("text", ""))) for output in outputs)
    assert "<Run of notebook: exit code 0, 4 of 4 jobs done>" in shown
    assert "cross-entropy" in shown
    # Bars, as widgets or as text.
    assert "notebook:" in shown or any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in outputs)
