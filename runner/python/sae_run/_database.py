"""What is known about past and present runs, as data frames."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ._frames import Columns, Library, frame, kind_of
from ._program import call_json

if TYPE_CHECKING:
    import pandas
    import polars

    from ._sae import Sae

Folder = str | os.PathLike[str]

# More rows than there are.
_ALL_ROWS = str(2**63 - 1)
_DECLARED = """
SELECT master.name AS "table", info.name, info.type FROM sqlite_schema AS master
JOIN pragma_table_info(master.name) AS info WHERE master.type IN ('table', 'view')
"""


@dataclass(frozen=True)
class Job:
    """A job of a sweep, as it was when it was asked for."""

    job_id: str
    name: str
    status: str
    runs_dir: Path

    def show(self) -> dict[str, Any]:
        """All that is known about it, as `sae-run show JOB --json` prints it."""
        return show(self)

    def curves(self) -> pandas.DataFrame:
        """As `sae_run.curves`."""
        return curves(self)

    def evaluations(self) -> pandas.DataFrame:
        """As `sae_run.evaluations`."""
        return evaluations(self)

    def load(self, **options: Any) -> dict[str, Sae]:
        """As `sae_run.load`."""
        from ._load import load

        return load(self, **options)


@overload
def sql(
    query: str, *, runs_dir: Folder | None = None, timeout: float = 0, as_: Literal["pandas"] = "pandas"
) -> pandas.DataFrame: ...
@overload
def sql(
    query: str, *, runs_dir: Folder | None = None, timeout: float = 0, as_: Literal["polars"]
) -> polars.DataFrame: ...
def sql(query: str, *, runs_dir: Folder | None = None, timeout: float = 0, as_: Library = "pandas") -> Any:
    """The rows of a query, which can only read. `timeout`: seconds after which it is ended; 0: never.

    Integers are Int64, numbers float64, `is_...` boolean, times (`..._ms`) of UTC, and JSON is parsed. NULL is a
    missing value, and so is a number that was not finite. Of columns with the same name, the last one counts.
    """
    args = ["sql", f"--max-rows={_ALL_ROWS}", f"--timeout={timeout:g}", *store(runs_dir)]
    return _frame(args, ["--", query], runs_dir, as_)


@overload
def results(
    where: str | None = None,
    *,
    sweep: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    all: bool = False,
    runs_dir: Folder | None = None,
    as_: Literal["pandas"] = "pandas",
) -> pandas.DataFrame: ...
@overload
def results(
    where: str | None = None,
    *,
    sweep: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    all: bool = False,
    runs_dir: Folder | None = None,
    as_: Literal["polars"],
) -> polars.DataFrame: ...
def results(
    where: str | None = None,
    *,
    sweep: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    all: bool = False,
    runs_dir: Folder | None = None,
    as_: Library = "pandas",
) -> Any:
    """A row for each SAE, also those without any result yet: the columns of the view `result`.

    `where`: an SQL expression such as `"k <= 64 AND fvu < 0.1"`; `sweep`: only that sweep; `sort`: columns such as
    `"hookpoint,-fvu"`; `all`: also SAEs that only earlier versions of a sweep asked for.
    """
    # Without any of these options, sweeps are listed.
    options = [f"--where={where or 1}", *(["--all"] if all else [])]
    given = {"sweep": sweep, "sort": sort, "limit": limit}
    options += [f"--{name}={value}" for name, value in given.items() if value is not None]
    return _frame(["ls", *options, *store(runs_dir)], [], runs_dir, as_)


@overload
def curves(
    job: str | Job | Iterable[str | Job], *, runs_dir: Folder | None = None, as_: Literal["pandas"] = "pandas"
) -> pandas.DataFrame: ...
@overload
def curves(
    job: str | Job | Iterable[str | Job], *, runs_dir: Folder | None = None, as_: Literal["polars"]
) -> polars.DataFrame: ...
def curves(job: str | Job | Iterable[str | Job], *, runs_dir: Folder | None = None, as_: Library = "pandas") -> Any:
    """How the training of a job or of several went: a row for each SAE and report, in this order.

    The columns are those of the view `curve`, without the names that sweeps have for the job.
    """
    columns = "job_id, hookpoint, sae, sae_id, step, n_tokens, fvu, l0, dead_pct"
    terms = "auxk, multi_topk_fvu, output_loss, sparsity"
    # A job of several sweeps has its rows once for each.
    query = f"SELECT DISTINCT {columns}, {terms}, time_ms FROM curve WHERE job_id IN ({{}}) ORDER BY sae_id, step"
    return _of_jobs(query, job, runs_dir, as_)


@overload
def evaluations(
    job: str | Job | Iterable[str | Job], *, runs_dir: Folder | None = None, as_: Literal["pandas"] = "pandas"
) -> pandas.DataFrame: ...
@overload
def evaluations(
    job: str | Job | Iterable[str | Job], *, runs_dir: Folder | None = None, as_: Literal["polars"]
) -> polars.DataFrame: ...
def evaluations(
    job: str | Job | Iterable[str | Job], *, runs_dir: Folder | None = None, as_: Library = "pandas"
) -> Any:
    """A row for each SAE of a job or of several that was evaluated on held-out sequences.

    The columns are those of the view `sae_evaluation`, after `job_id`, `hookpoint` and `sae`.
    """
    query = (
        "SELECT sae.job_id, sae.hookpoint, sae.name AS sae, sae_evaluation.* FROM sae_evaluation"
        " JOIN sae USING (sae_id) WHERE sae.job_id IN ({}) ORDER BY sae_id"
    )
    return _of_jobs(query, job, runs_dir, as_)


def show(job: str | Job, *, runs_dir: Folder | None = None) -> dict[str, Any]:
    """All that is known about a job, by its name, its id or the beginning of its id."""
    job, runs_dir = named(job, runs_dir)
    shown: dict[str, Any] = call_json(["show", "--json", *store(runs_dir), "--", job])
    return shown


def jobs_of(sweep: str, runs_dir: Path) -> list[Job]:
    """The jobs that the newest version of a sweep asks for, in its order."""
    query = (
        "SELECT job_id, sweep_listing.job AS name, status FROM sweep_listing JOIN job USING (job_id)"
        f" WHERE is_current AND sweep = {quoted(sweep)} ORDER BY ordinal"
    )
    rows = call_json(["sql", "--json", f"--max-rows={_ALL_ROWS}", *store(runs_dir), "--", query])["rows"]
    return [Job(**row, runs_dir=runs_dir) for row in rows]


def quoted(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def _of_jobs(query: str, job: str | Job | Iterable[str | Job], runs_dir: Folder | None, as_: Library) -> Any:
    jobs = [job] if isinstance(job, (str, Job)) else list(job)
    if runs_dir is None:
        # All are in the same database.
        runs_dir = next((job.runs_dir for job in jobs if isinstance(job, Job)), None)
    ids = [job.job_id if isinstance(job, Job) else show(job, runs_dir=runs_dir)["job_id"] for job in jobs]
    return sql(query.format(", ".join(map(quoted, ids))), runs_dir=runs_dir, as_=as_)


def named(job: str | Job, runs_dir: Folder | None) -> tuple[str, Folder | None]:
    return (job.job_id, runs_dir or job.runs_dir) if isinstance(job, Job) else (job, runs_dir)


def store(runs_dir: Folder | None) -> list[str]:
    return [] if runs_dir is None else [f"--runs-dir={os.fspath(runs_dir)}"]


def _frame(args: list[str], rest: list[str], runs_dir: Folder | None, library: Library) -> Any:
    """What a command prints as a table."""
    found = call_json([*args, "--json", *rest])
    rows = found["rows" if "rows" in found else "saes"]
    columns: Columns = {name: [row[name] for row in rows] for name in found["columns"]}
    declared = {}
    if any(all(value is None for value in values) for values in columns.values()):
        declared = _declared(runs_dir)
    kinds = {name: kind_of(name, values, declared.get(name, "")) for name, values in columns.items()}
    return frame(columns, kinds, library)


def _declared(runs_dir: Folder | None) -> dict[str, str]:
    """The types of the schema's columns, by name."""
    rows = call_json(["sql", "--json", f"--max-rows={_ALL_ROWS}", *store(runs_dir), "--", _DECLARED])["rows"]
    # Computed in views, as a text and as an integer, where all others are ratios.
    declared = {"checkpoint": "TEXT", "tokens_per_update": "INTEGER"}
    declared.update(dict.fromkeys(["time", "created", "done", "started", "ended"], "TEXT"))
    declared.update({row["name"]: row["type"] for row in rows if row["type"]})
    # Of any type, and seldom with a fraction.
    declared["k"] = "INTEGER"
    return declared
