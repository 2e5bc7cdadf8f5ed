"""Passes on to Weights & Biases or MLflow what `sae-run` reads from its database.

`sae-run` starts it as `python -c TEXT_OF_THIS_FILE wandb|mlflow FOLDER SWEEP [own]`. Each question is a line of JSON on
standard input, and each answer a line on standard output. A tracker says how much it has of a run, and is then given
the rest.
"""

from __future__ import annotations

import sys

# Nothing that happens to be in the current folder is imported.
sys.path[:] = [folder for folder in sys.path if folder]

import fcntl  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from importlib import import_module  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Protocol  # noqa: E402

Json = dict[str, Any]

PROJECT = "sae-run"
# In the folder of a run of Weights & Biases: how much of it was written when it was closed.
STATE = "sae-run.json"
# Metrics and parameters that MLflow takes at once.
MOST_METRICS = 1000
MOST_PARAMS = 100


class Tracker(Protocol):
    def begin(self, run: Json) -> Json: ...
    def log(self, run_id: str, points: list[Json]) -> Json: ...
    def end(self, run_id: str, end: str) -> None: ...
    def close(self) -> None: ...


def with_point(so_far: Json, point: Json) -> Json:
    key = "evaluated" if point["is_evaluation"] else "step"
    return so_far | {key: max(point["step"], so_far[key] or 0)}


def nothing() -> Json:
    return {"step": None, "evaluated": None}


class WandB:
    """A run is opened when there is something to log. A folder of an offline run cannot be continued: all points are
    wanted again then, and the new folder replaces the old one.
    """

    def __init__(self, folder: Path, own: bool) -> None:
        self.wandb: Any = import_module("wandb")
        given = None if own else os.environ.get("WANDB_DIR")
        self.dir = Path(given).absolute() if given else folder
        self.dir.mkdir(parents=True, exist_ok=True)
        self.mode = os.environ.get("WANDB_MODE") or ("online" if self._has_key() else "offline")
        self.known: dict[str, Json] = {}
        self.open: dict[str, Any] = {}
        self.so_far: dict[str, Json] = {}

    def _has_key(self) -> bool:
        try:
            return bool(self.wandb.login(prompt=False))
        except TypeError:
            # A version before that option.
            return bool(self.wandb.api.api_key)

    def begin(self, run: Json) -> Json:
        self.known[run["id"]] = run
        for folder in self._folders(run["id"]):
            try:
                state: Json = json.loads((folder / STATE).read_text())
                return nothing() | state
            except (OSError, ValueError):
                continue
        return nothing()

    def _folders(self, run_id: str) -> list[Path]:
        """The folders of a run on this machine, the newest first."""
        kind = "offline-run" if self.mode == "offline" else "run"
        return sorted((self.dir / "wandb").glob(f"{kind}-*-{run_id}"), reverse=True)

    def log(self, run_id: str, points: list[Json]) -> Json:
        if run_id not in self.open:
            self._open(self.known[run_id])
            return self.so_far[run_id]
        run = self.open[run_id]
        for point in points:
            if point["is_evaluation"]:
                run.summary.update(point["values"] | {"evaluated_step": point["step"]})
            else:
                run.log(point["values"] | {"_timestamp": point["time_ms"] / 1000}, step=point["step"])
            self.so_far[run_id] = with_point(self.so_far[run_id], point)
        return self.so_far[run_id]

    def _open(self, known: Json) -> None:
        run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            group=known["sweep"],
            name=known["job"],
            id=known["id"],
            config=known["config"] | {"job_id": known["job_id"]},
            dir=self.dir,
            mode=self.mode,
            resume="allow" if self.mode == "online" else None,
            reinit="create_new",
            save_code=False,
            settings=self.wandb.Settings(console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True),
        )
        so_far = nothing()
        if self.mode == "online" and run.resumed:
            so_far = {"step": run.step - 1, "evaluated": run.summary.get("evaluated_step")}
        self.open[known["id"]] = run
        self.so_far[known["id"]] = so_far

    def end(self, run_id: str, end: str) -> None:
        run = self.open.pop(run_id, None)
        if run is None:
            return
        # The parent of the folder for files, which is not the same in all versions.
        folder = next(parent for parent in Path(run.dir).parents if parent.name.endswith(run_id))
        run.finish(exit_code=0 if end == "done" else 1)
        if self.mode == "disabled":
            return
        write_whole(folder / STATE, json.dumps(self.so_far.pop(run_id)))
        if self.mode == "offline":
            for old in self._folders(run_id):
                if old != folder:
                    shutil.rmtree(old)

    def close(self) -> None:
        for run_id in list(self.open):
            self.end(run_id, "stopped")


class MLflow:
    """A run is found by a tag, and its steps by a metric that is logged last of each step."""

    def __init__(self, folder: Path, own: bool) -> None:
        mlflow: Any = import_module("mlflow")
        given = None if own else os.environ.get("MLFLOW_TRACKING_URI")
        if not given:
            # Only its own database needs them.
            import_module("alembic")
            import_module("sqlalchemy")
        self.entities: Any = import_module("mlflow.entities")
        self.client: Any = mlflow.MlflowClient(given or f"sqlite:///{folder / 'mlflow.db'}")
        self.artifacts = None if given else (folder / "mlflow-artifacts").as_uri()
        self.run_ids: dict[str, str] = {}
        self.so_far: dict[str, Json] = {}
        self.is_first: set[str] = set()

    def begin(self, run: Json) -> Json:
        experiment = self._experiment(run["sweep"])
        found = self.client.search_runs([experiment], f"tags.`sae_run.id` = '{run['id']}'")
        if found:
            known = found[0]
        else:
            tags = {"mlflow.runName": run["job"], "sae_run.id": run["id"], "sae_run.job_id": run["job_id"]}
            known = self.client.create_run(experiment, start_time=run["started_ms"], tags=tags, run_name=run["job"])
        run_id = known.info.run_id
        self.run_ids[run["id"]] = run_id
        self._log_params(run_id, run["config"], known.data.params)
        steps = [metric.step for metric in self.client.get_metric_history(run_id, "n_tokens")]
        evaluated = known.data.tags.get("sae_run.evaluated")
        so_far = {"step": max(steps, default=None), "evaluated": int(evaluated) if evaluated else None}
        self.so_far[run["id"]] = so_far
        self.is_first.add(run["id"])
        return so_far

    def _experiment(self, name: str) -> str:
        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        return str(self.client.create_experiment(name, artifact_location=self.artifacts))

    def _log_params(self, run_id: str, config: Json, known: dict[str, str]) -> None:
        text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
        new = [self.entities.Param(key, value) for key, value in text.items() if key not in known]
        for params in parts(new, MOST_PARAMS):
            self.client.log_batch(run_id, params=params)

    def log(self, run_id: str, points: list[Json]) -> Json:
        mlflow_id = self.run_ids[run_id]
        metrics: list[Any] = []
        for point in points:
            step, time_ms = point["step"], point["time_ms"]
            values = point["values"].items()
            # A process that was killed may have left a part of it.
            if run_id in self.is_first or point["is_evaluation"]:
                values = [item for item in values if not self._has(mlflow_id, item[0], step)]
                self.is_first.discard(run_id)
            metrics += [self.entities.Metric(key, value, time_ms, step) for key, value in values]
        for part in parts(metrics, MOST_METRICS):
            self.client.log_batch(mlflow_id, metrics=part)
        for point in points:
            self.so_far[run_id] = with_point(self.so_far[run_id], point)
            if point["is_evaluation"]:
                self.client.set_tag(mlflow_id, "sae_run.evaluated", str(point["step"]))
        if points:
            self.client.update_run(mlflow_id, status="RUNNING")
        return self.so_far[run_id]

    def _has(self, mlflow_id: str, key: str, step: int) -> bool:
        return any(metric.step == step for metric in self.client.get_metric_history(mlflow_id, key))

    def end(self, run_id: str, end: str) -> None:
        status = {"done": "FINISHED", "failed": "FAILED"}.get(end, "KILLED")
        mlflow_id = self.run_ids.pop(run_id)
        if self.client.get_run(mlflow_id).info.status != status:
            self.client.set_terminated(mlflow_id, status)

    def close(self) -> None:
        for run_id in list(self.run_ids):
            self.end(run_id, "stopped")


def parts(items: list[Any], most: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), most):
        yield items[start : start + most]


def write_whole(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".tmp")
    new.write_text(text)
    new.replace(path)


def answer(tracker: Tracker, question: Json) -> Any:
    match question["do"]:
        case "begin":
            return {"so_far": tracker.begin(question["run"])}
        case "log":
            points = [point | {"values": dict(point["values"])} for point in question["points"]]
            return {"so_far": tracker.log(question["id"], points)}
        case _:
            tracker.end(question["id"], question["end"])
            return "done"


def main(kind: str, folder: Path, sweep: str, own: bool) -> None:
    # What packages print goes where errors go.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    # An earlier one may still be writing what it was given.
    lock = open(folder / f".{sweep}.{kind}.bridge.lock", "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    tracker: Tracker
    try:
        # A database is made by one process.
        with open(folder / f".{kind}.lock", "w") as new:
            fcntl.flock(new, fcntl.LOCK_EX)
            tracker = WandB(folder, own) if kind == "wandb" else MLflow(folder, own)
    except ImportError as error:
        say({"missing": error.name or kind})
        return
    except Exception as error:
        say({"error": one_line(error)})
        return
    say("done")
    try:
        for line in sys.stdin:
            try:
                say(answer(tracker, json.loads(line)))
            except Exception as error:
                say({"error": one_line(error)})
    except BrokenPipeError:
        pass
    tracker.close()


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:] == ["own"])
