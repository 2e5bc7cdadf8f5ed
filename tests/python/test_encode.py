"""The active latents of texts as frames."""

import importlib.util
from typing import Any

import pandas
import polars
import pytest
from conftest import TEXTS, job_of, texts

import sae_run

COLUMNS = ["sequence", "position", "token_id", "sae", "hookpoint", "latent", "activation"]


@pytest.fixture
def job(trained: sae_run.Run) -> sae_run.Job:
    return job_of(trained, "seeds")


def test_rows_are_of_all_texts_and_saes(job: sae_run.Job) -> None:
    rows = sae_run.encode(texts(3), job)
    assert [*rows.columns] == COLUMNS
    assert sorted(rows.sequence.unique()) == [0, 1, 2]
    assert sorted(rows.sae.unique()) == [f"layers.{layer}/seed{seed}" for layer in range(3) for seed in range(2)]
    assert set(rows.hookpoint) == {"layers.0", "layers.1", "layers.2"}
    assert rows.groupby(["sequence", "position", "sae"], observed=True).size().max() == 4
    assert (rows.activation > 0).all()
    of_one = sae_run.encode(texts(1)[0], job, hookpoints=["layers.1/seed0", "layers.2/*"], top=2, device="cpu")
    assert set(of_one.sequence) == {0}
    assert of_one.groupby(["position", "sae"], observed=True).size().max() == 2
    assert len(set(of_one.sae)) == 3
    same = sae_run.encode(texts(1), job.job_id, runs_dir=job.runs_dir, hookpoints="layers.1/seed0", top=2)
    assert len(same) == (of_one.sae == "layers.1/seed0").sum()


def test_polars_has_the_same(job: sae_run.Job) -> None:
    of_polars = sae_run.encode(texts(2), job, as_="polars")
    assert isinstance(of_polars, polars.DataFrame)
    of_pandas = sae_run.encode(texts(2), job)
    assert of_polars["activation"].to_list() == of_pandas.activation.tolist()
    assert of_polars.columns == COLUMNS


def test_without_pyarrow_the_frame_is_the_same(job: sae_run.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    with_pyarrow = sae_run.encode(texts(2), job)
    find_spec = importlib.util.find_spec

    def without(name: str, *args: Any) -> Any:
        return None if name == "pyarrow" else find_spec(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    without_pyarrow = sae_run.encode(texts(2), job)
    pandas.testing.assert_frame_equal(without_pyarrow, with_pyarrow)


def test_texts_may_have_several_lines(job: sae_run.Job) -> None:
    lines, whole = ["a line", "and another"], ["a line\nand another", "- a second text"]
    assert set(sae_run.encode(lines, job).sequence) == {0, 1}
    rows = sae_run.encode(whole, job)
    assert set(rows.sequence) == {0, 1}
    n_tokens = rows.groupby("sequence").position.max() + 1
    of_lines = sae_run.encode(lines, job).groupby("sequence").position.max() + 1
    assert n_tokens[0] > of_lines.sum()
    with pytest.raises(sae_run.SaeRunError, match="too long for a command line") as raised:
        sae_run.encode(["a\n" * 100_000], job)
    assert "dataset" in str(raised.value.hint)
    with pytest.raises(ValueError, match="there are no texts"):
        sae_run.encode([], job)


def test_data_sets_and_folders(job: sae_run.Job, trained: sae_run.Run) -> None:
    rows = sae_run.encode(None, job, dataset=TEXTS, max_examples=2, ctx_len=32)
    assert rows.groupby("sequence").position.nunique().tolist() == [32, 32]
    assert trained.runs_dir is not None
    folder = trained.runs_dir / job.show()["dir"] / "layers.0"
    of_folder = sae_run.encode("text", folder)
    assert set(of_folder.hookpoint) == {"layers.0"}


def test_what_is_refused_is_said(job: sae_run.Job) -> None:
    with pytest.raises(sae_run.SaeRunError, match="text 0 has .* tokens, and a sequence at most 128") as raised:
        sae_run.encode("long " * 200, job)
    assert "shorten it" in str(raised.value.hint)
    with pytest.raises(sae_run.SaeRunError, match="no job has the id or name `other`"):
        sae_run.encode("text", "other", runs_dir=job.runs_dir)
    with pytest.raises(sae_run.SaeRunError, match="unexpected argument '--nonsense'"):
        sae_run.encode("text", job, nonsense=1)
