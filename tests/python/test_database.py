"""Results, curves and queries as data frames."""

from datetime import timezone
from pathlib import Path

import pandas
import polars
import pytest
from conftest import KINDS, job_of

import sae_run
from sae_run._frames import Kind, kind_of

# The types of the view `result`, whatever it has.
RESULT = {"sweep": "string", "is_current": "boolean", "k": "Int64", "fvu": "float64", "tokens_per_update": "Int64"} | {
    "kind": "string",
    "threshold": "float64",
    "l0_calibrated": "float64",
    "threshold_ema": "float64",
    "l0_ema": "float64",
    "fvu_eval": "float64",
    "checkpoint": "string",
    "repo": "string",
}


@pytest.fixture
def runs_dir(trained: sae_run.Run) -> Path:
    assert trained.runs_dir is not None
    return trained.runs_dir


def test_results_have_a_row_for_each_sae(runs_dir: Path) -> None:
    results = sae_run.results(runs_dir=runs_dir)
    assert [*results.job.unique()] == [*KINDS]
    assert len(results) == 15
    assert {name: str(results.dtypes[name]) for name in RESULT} == RESULT
    assert results.is_current.all()
    assert results.kind[results.job == "groupmax"].tolist() == ["groupmax"]
    assert set(results.kind) == {"topk", "groupmax", "transcoder topk"}
    assert (results.fvu > 0).all()
    assert sae_run.results(all=True, runs_dir=runs_dir).equals(results)


def test_results_are_chosen_and_sorted(runs_dir: Path) -> None:
    best = sae_run.results("seed = 1", sweep="kinds", sort="-fvu", limit=2, runs_dir=runs_dir)
    every = sae_run.results(runs_dir=runs_dir)
    assert best.fvu.tolist() == sorted(every.fvu[every.seed == 1], reverse=True)[:2]
    nothing = sae_run.results("k > 1000", runs_dir=runs_dir)
    assert len(nothing) == 0
    assert nothing.dtypes.equals(every.dtypes)
    with pytest.raises(sae_run.SaeRunError, match="no such column: kk"):
        sae_run.results("kk", runs_dir=runs_dir)
    with pytest.raises(sae_run.SaeRunError, match="no sweep is called `other`"):
        sae_run.results(sweep="other", runs_dir=runs_dir)


def test_results_come_before_anything_is_evaluated(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(sae_run.SaeRunError, match="there is no database at"):
        sae_run.results()
    sae_run.run("tiny.toml", {"vary.k": [4]}, progress=False)
    results = sae_run.results()
    assert {name: str(results.dtypes[name]) for name in RESULT} == RESULT
    assert results.fvu_eval.isna().all() and results.repo.isna().all()
    of_polars = sae_run.results(as_="polars")
    assert of_polars.schema["fvu_eval"] == polars.Float64
    assert of_polars.schema["repo"] == polars.String
    assert of_polars["fvu"].to_list() == results.fvu.tolist()


def test_curves_are_of_jobs(trained: sae_run.Run, runs_dir: Path) -> None:
    job = job_of(trained, "topk")
    curves = sae_run.curves("topk", runs_dir=runs_dir)
    assert curves.groupby("sae").step.apply(list).to_dict() == {
        "layers.0.mlp": list(range(1, 9)),
        "layers.1": list(range(1, 9)),
    }
    assert str(curves.dtypes["time_ms"]) == "datetime64[ms, UTC]"
    assert abs(curves.time_ms.max() - pandas.Timestamp.now(timezone.utc)) < pandas.Timedelta(hours=1)
    for term in ("auxk", "sparsity"):
        assert curves[term].isna().all() and str(curves.dtypes[term]) == "float64"
    for same in (job, job.job_id, job.job_id[:8]):
        assert sae_run.curves(same, runs_dir=runs_dir).equals(curves)
    assert job.curves().equals(curves)
    both = sae_run.curves([job, job_of(trained, "groupmax")], as_="polars")
    assert both.schema["time_ms"] == polars.Datetime("ms", "UTC")
    assert len(both) == 24
    with pytest.raises(sae_run.SaeRunError, match="no job has the id or name `other`") as raised:
        sae_run.curves("other", runs_dir=runs_dir)
    assert raised.value.exit_code == 2


def test_evaluations_are_those_of_results(trained: sae_run.Run, runs_dir: Path) -> None:
    evaluations = sae_run.evaluations(trained.jobs)
    results = sae_run.results(runs_dir=runs_dir).set_index("sae_id")
    assert (evaluations.set_index("sae_id").fvu == results.fvu_eval).all()
    assert evaluations.job_id.tolist() == results.job_id.tolist()
    (one,) = job_of(trained, "groupmax").evaluations().itertuples()
    assert (one.sae, one.n_tokens, one.l0) == ("layers.1", 52 * 64, 4)


def test_a_job_of_two_sweeps_has_its_curve_once(workspace: Path) -> None:
    changes = {"vary.k": [4], "vary.hookpoints": [["layers.0"]]}
    sae_run.run("tiny.toml", changes, progress=False)
    run = sae_run.run("tiny.toml", {**changes, "name": "other"}, progress=False)
    assert len(sae_run.results()) == 2
    (job,) = run.jobs
    assert len(job.curves()) == 8
    assert job.show()["status"] == "done"


def test_queries_have_types(runs_dir: Path) -> None:
    def types(query: str) -> dict[str, str]:
        frame = sae_run.sql(query, runs_dir=runs_dir)
        return {str(name): str(dtype) for name, dtype in frame.dtypes.items()}

    assert types("SELECT 1 AS a, 1.5 AS b, 'x' AS c, NULL AS d UNION ALL SELECT NULL, 2, NULL, NULL") == {
        "a": "Int64",
        "b": "float64",
        "c": "string",
        "d": "float64",
    }
    jobs = sae_run.sql("SELECT * FROM job ORDER BY job_id", runs_dir=runs_dir)
    assert str(jobs.dtypes["created_ms"]) == str(jobs.dtypes["done_ms"]) == "datetime64[ms, UTC]"
    assert jobs.config[0]["ctx_len"] == 64
    assert types("SELECT is_final, elapsed_ms FROM checkpoint JOIN progress") == {
        "is_final": "boolean",
        "elapsed_ms": "Int64",
    }
    assert types("SELECT * FROM job WHERE 0") == types("SELECT * FROM job")
    of_polars = sae_run.sql("SELECT config, done_ms FROM job", runs_dir=runs_dir, as_="polars")
    assert of_polars["config"][0]["ctx_len"] == 64
    assert of_polars.schema["done_ms"] == polars.Datetime("ms", "UTC")
    mixed = sae_run.sql("SELECT 1 AS a UNION ALL SELECT 'x'", runs_dir=runs_dir)
    assert mixed.a.tolist() == [1, "x"]


def test_bad_queries_are_errors(runs_dir: Path) -> None:
    with pytest.raises(sae_run.SaeRunError, match='near "selec": syntax error') as raised:
        sae_run.sql("selec", runs_dir=runs_dir)
    assert "sqlite_schema" in str(raised.value.hint)
    with pytest.raises(sae_run.SaeRunError):
        sae_run.sql("DELETE FROM job", runs_dir=runs_dir)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with pytest.raises(sae_run.SaeRunError):
        sae_run.sql(endless, runs_dir=runs_dir, timeout=0.5)
    with pytest.raises(ValueError, match="'pandas' or 'polars'"):
        sae_run.sql("SELECT 1", runs_dir=runs_dir, as_="numpy")


def test_kinds_follow_names_and_values() -> None:
    assert kind_of("key", ['{"a": 1}']) is Kind.OBJECT
    assert kind_of("key", [1]) is Kind.INTEGER
    assert kind_of("total_ms", [1.5]) is Kind.REAL
    assert kind_of("is_new", [None]) is Kind.BOOLEAN
    assert kind_of("n", [None], "INTEGER") is Kind.INTEGER
