"""Reads what `sae-run` wrote for a tracker with that tracker's own package, and prints it as JSON.

    python read_back.py tensorboard|trackio|wandb|mlflow FOLDER

An array of runs: {"group", "run", "config", "curves": {name: [[step, value], ...]}, "status"}. Weights & Biases has an
evaluation in its summary.
"""

import json
import os
import sys
from pathlib import Path


def of_tensorboard(folder: Path) -> list:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    runs = []
    for path in sorted((folder / "tensorboard").glob("*/*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        session = metadata.parse_session_start_info_plugin_data(content)
        config = {}
        for key, value in session.hparams.items():
            config[key] = getattr(value, value.WhichOneof("kind"))
        text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
        runs.append(
            {
                "group": path.parent.name,
                "run": text.split("`")[1],
                "config": config,
                "curves": {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]},
            }
        )
    return runs


def of_trackio(folder: Path) -> list:
    os.environ["TRACKIO_DIR"] = str(folder / "trackio")
    from trackio import fragments
    from trackio.sqlite_storage import SQLiteStorage

    fragments.import_inbox_dir()
    runs = []
    for record in SQLiteStorage.get_run_records("sae-run"):
        name, run_id = record["name"], record["id"]
        config = SQLiteStorage.get_run_config("sae-run", run=name, run_id=run_id)
        curves: dict = {}
        for row in SQLiteStorage.get_logs("sae-run", run=name, run_id=run_id):
            for key, value in row.items():
                if key not in ("step", "timestamp"):
                    curves.setdefault(key, []).append([row["step"], value])
        runs.append({"group": config["_Group"], "run": name, "config": config, "curves": curves})
    return runs


def of_wandb(folder: Path) -> list:
    runs = []
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        run: dict = {"curves": {}, "status": None}
        for record in records_of_wandb(path.read_bytes()):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run["group"], run["run"] = record.run.run_group, record.run.display_name
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                run.setdefault("config", {}).update(config)
            elif kind == "history":
                row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                for key, value in row.items():
                    if not key.startswith("_"):
                        run["curves"].setdefault(key, []).append([row["_step"], value])
                run["times"] = [*run.get("times", []), row["_timestamp"]]
            elif kind == "summary":
                for item in record.summary.update:
                    run.setdefault("summary", {})[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            elif kind == "exit":
                run["status"] = record.exit.exit_code
        step = run.get("summary", {}).get("evaluated_step")
        for key, value in run.get("summary", {}).items():
            if step is not None and key not in run["curves"] and "/" in key and key[0] != "_":
                run["curves"][key] = [[step, value]]
        runs.append(run)
    return runs


def records_of_wandb(data: bytes) -> list:
    """The records of a LevelDB log: blocks of 32 KiB, in which a record may have several parts."""
    from wandb.proto import wandb_internal_pb2

    assert data[:4] == b":W&B", data[:7]
    records, at, parts = [], 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def of_mlflow(folder: Path) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = []
    for experiment in client.search_experiments(filter_string="name != 'Default'"):
        for run in client.search_runs([experiment.experiment_id]):
            curves = {
                key: [[metric.step, metric.value] for metric in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            }
            config = run.data.params
            runs.append(
                {
                    "group": experiment.name,
                    "run": run.info.run_name,
                    "config": config,
                    "curves": curves,
                    "status": run.info.status,
                }
            )
    return runs


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    read = {"tensorboard": of_tensorboard, "trackio": of_trackio, "wandb": of_wandb, "mlflow": of_mlflow}
    json.dump(read[sys.argv[1]](Path(sys.argv[2])), answers)
