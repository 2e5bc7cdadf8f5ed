"""Running sweeps: progress, stopping, resuming, errors."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MODEL, TEXTS

import sae_run

# Far more updates than are done before a test stops it.
LONG = {"train.max_examples": 100_000, "train.batch_size": 1, "train.save_every": 1000}


def until(what: Callable[[], object]) -> None:
    """Asks again until there is an answer."""
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def step_of(run: sae_run.Run) -> int:
    return max((stream.step for stream in run.streams.values()), default=0)


def test_a_sweep_is_trained_and_stays_done(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = sae_run.run("tiny.toml")
    assert (run.exit_code, run.is_running, run.was_stopped) == (0, False, False)
    assert (run.sweep, run.runs_dir, run.n_done, run.n_jobs) == ("tiny", workspace / "runs", 4, 4)
    assert [job.status for job in run.jobs] == ["done"] * 4
    assert run.jobs[0].curves().step.tolist() == list(range(1, 9))
    results = run.results("k = 4", as_="polars")
    assert results["hookpoint"].to_list() == ["layers.0", "layers.1.mlp", "layers.2"]
    (stream,) = run.streams.values()
    assert (stream.doing, stream.step, stream.n_steps, len(stream.fvu)) == ("finished", 8, 8, 6)
    assert "FVU" in stream.describe()
    drawn = capfd.readouterr().err
    assert "tiny: 100%" in drawn and "4/4" in drawn
    assert "training" in drawn and "8/8" in drawn
    again = sae_run.run(workspace / "tiny.toml", progress=False)
    assert (again.n_done, again.streams) == (4, {})
    assert repr(again) == "<Run of tiny: exit code 0, 4 of 4 jobs done>"
    assert capfd.readouterr() == ("", "")


def test_stopping_saves_and_running_again_resumes(workspace: Path) -> None:
    run = sae_run.run("tiny.toml", LONG, wait=False, progress=False)
    until(lambda: step_of(run) >= 3)
    assert run.is_running and run.exit_code is None
    assert run.wait(0.01) is run
    assert "running" in repr(run)
    run.stop()
    assert run.was_stopped and not run.is_running
    assert run.wait() is run
    run.stop()
    assert {job.status for job in run.jobs} == {"stopped"}
    stopped_at = step_of(run)
    again = sae_run.run("tiny.toml", LONG, wait=False, progress=False)
    until(lambda: step_of(again) > stopped_at)
    again.stop()
    first = sae_run.sql("SELECT first_step FROM attempt ORDER BY attempt_id").first_step.tolist()
    assert first == [0, stopped_at]


SCRIPT = """
import os, signal, sys, threading, time, sae_run
running = sae_run.run("tiny.toml", {long}, wait=False, progress=False)
def interrupt():
    while not any(stream.step >= 3 for stream in running.streams.values()):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
{end}
"""
INTERRUPTED = """
threading.Thread(target=interrupt).start()
try:
    running.wait()
except KeyboardInterrupt:
    print("interrupted", running.was_stopped)
"""
ENDED = """
while not any(stream.step >= 3 for stream in running.streams.values()):
    time.sleep(0.01)
print("ended")
"""


@pytest.mark.parametrize(("end", "printed"), [(INTERRUPTED, "interrupted True\n"), (ENDED, "ended\n")])
def test_ctrl_c_and_the_end_of_python_save(workspace: Path, end: str, printed: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(sae_run.__file__).parents[1])}
    script = SCRIPT.format(long=LONG, end=end)
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert (ended.stdout, ended.returncode) == (printed, 0), ended.stderr
    assert sae_run.sql("SELECT DISTINCT status FROM job").status.tolist() == ["stopped"]
    assert sae_run.sql("SELECT max(step) AS step FROM checkpoint").step[0] >= 3


def test_a_second_ctrl_c_does_not_wait(workspace: Path) -> None:
    run = sae_run.run("tiny.toml", LONG, wait=False, progress=False)
    until(lambda: step_of(run) >= 3)
    signals = []
    run._process.send_signal = signals.append
    waited = []

    def interrupted(timeout: float | None = None) -> bool:
        waited.append(timeout)
        if len(waited) < 3:
            raise KeyboardInterrupt
        return True

    wait, run._has_ended.wait = run._has_ended.wait, interrupted
    with pytest.raises(KeyboardInterrupt):
        run.wait()
    assert signals == [signal.SIGINT] * 2
    run._has_ended.wait = wait
    del run._process.send_signal
    run.stop()


def test_failed_jobs_are_an_error_and_the_others_are_kept(workspace: Path) -> None:
    with pytest.raises(sae_run.SaeRunError) as raised:
        sae_run.run("tiny.toml", {"train.lr": 1e30}, progress=False)
    error = raised.value
    assert error.exit_code == 1
    assert error.message.endswith("the loss is NaN or infinite")
    assert error.hint == "lower `lr`"
    assert len(set(re.findall(r"\([0-9a-f]{12}\)", error.output))) == 4
    assert set(sae_run.results().status) == {"failed"}


def test_input_that_is_refused_is_an_error(workspace: Path) -> None:
    with pytest.raises(sae_run.SaeRunError, match="cannot read `none.toml`") as raised:
        sae_run.run("none.toml")
    assert raised.value.exit_code == 2
    assert "docs/sweeps.md" in str(raised.value)
    run = sae_run.run("tiny.toml", {"train.k": "x"}, wait=False, progress=False)
    with pytest.raises(sae_run.SaeRunError, match="train.k"):
        run.wait()
    with pytest.raises(sae_run.SaeRunError, match="has not been recorded"):
        run.results()


def test_one_job_from_options(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"ctx_len": 64, "k": 4, "hookpoints": ["layers.0", "layers.1"], "init_seeds": [0, 1], "transcode": False}
    run = sae_run.train(
        MODEL, TEXTS, **options, max_examples=16, batch_size=8, run_name="mine", hf_token="secret", progress=False
    )
    assert (run.sweep, run.runs_dir) == ("mine", workspace / "runs")
    assert run.results().sae.tolist() == [f"layers.{layer}/seed{seed}" for layer in (0, 1) for seed in (0, 1)]
    with pytest.raises(sae_run.SaeRunError, match="unexpected argument '--nonsense'"):
        sae_run.train(MODEL, TEXTS, nonsense=1)


def test_remarks_are_kept_and_shown(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = sae_run.run("tiny.toml", {"train.eval_fraction": 0.05})
    (message,) = [message for message in run.messages if "held-out sequences" in message]
    assert message in capfd.readouterr().out


def test_fresh_trains_again(workspace: Path) -> None:
    changes = {"vary.k": [4], "vary.hookpoints": [["layers.0"]]}
    sae_run.run("tiny.toml", changes, progress=False)
    with pytest.raises(sae_run.SaeRunError, match="there is no terminal to ask at"):
        sae_run.run("tiny.toml", changes, fresh=True, progress=False)
    again = {"fresh": True, "yes": True, "take_over": True, "device": "cpu", "jobs": 1, "progress": False}
    run = sae_run.run("tiny.toml", changes, **again)
    assert [stream.step for stream in run.streams.values()] == [8]


def test_bars_that_cannot_be_drawn_stop_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("no screen")

    monkeypatch.setattr("sae_run._progress.Bars.stream", broken)
    with pytest.raises(OSError, match="no screen"):
        sae_run.run("tiny.toml")
    assert set(sae_run.results().status) == {"done"}
