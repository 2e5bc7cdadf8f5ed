"""Running sweeps, and what they report meanwhile."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, overload

from ._database import Job, jobs_of, results
from ._errors import SaeRunError, error_of
from ._frames import Library
from ._program import find_program, option, settings
from ._progress import Bars, StreamProgress

if TYPE_CHECKING:
    import pandas
    import polars

# The exit code of a program that saved because it was asked to stop.
STOPPED = 130

_running: weakref.WeakSet[Run] = weakref.WeakSet()


class Run:
    """A sweep that runs, or ran. `run` and `train` make it.

    Meanwhile, `streams` says how far each stream is, `n_done` how many of `n_jobs` jobs are done, and `messages` has
    what the program remarked. If Python ends, it saves and stops.
    """

    def __init__(self, args: Sequence[str], *, progress: bool, variables: Mapping[str, str] | None = None) -> None:
        self.sweep: str | None = None
        self.runs_dir: Path | None = None
        self.n_jobs = 0
        self.n_done = 0
        self.streams: dict[str, StreamProgress] = {}
        self.messages: list[str] = []
        self._folder = Path.cwd()
        self._bars = Bars() if progress else None
        self._errors: list[str] = []
        # What went wrong here while it was watched; the program is not to blame, and is read on.
        self._failure: Exception | None = None
        self._has_ended = threading.Event()
        # In a group of its processes: a terminal or notebook signals all processes of one, and the program would take
        # that signal and ours for two, after which it stops without saving.
        self._process = subprocess.Popen(
            [str(find_program()), *args, "--progress", "json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **(variables or {})},
            start_new_session=True,
        )
        _running.add(self)
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return not self._has_ended.is_set()

    @property
    def exit_code(self) -> int | None:
        """The program's exit code; None while it runs."""
        return None if self.is_running else self._process.returncode

    @property
    def was_stopped(self) -> bool:
        """Whether it was stopped before all jobs were done; `run` with the same sweep continues it."""
        return self.exit_code in (STOPPED, -signal.SIGINT)

    @property
    def jobs(self) -> list[Job]:
        """The sweep's jobs, as they are now."""
        sweep, runs_dir = self._recorded()
        return jobs_of(sweep, runs_dir)

    @overload
    def results(self, where: str | None = None, *, as_: Literal["pandas"] = "pandas") -> pandas.DataFrame: ...
    @overload
    def results(self, where: str | None = None, *, as_: Literal["polars"]) -> polars.DataFrame: ...
    def results(self, where: str | None = None, *, as_: Library = "pandas") -> Any:
        """A row for each SAE of the sweep, as `sae_run.results`."""
        sweep, runs_dir = self._recorded()
        return results(where, sweep=sweep, runs_dir=runs_dir, as_=as_)

    def wait(self, timeout: float | None = None) -> Run:
        """Waits for the end, or `timeout` seconds, and gives this run back.

        Ctrl-C saves and stops it, and is raised again then; a second Ctrl-C stops without saving. Raises
        `SaeRunError` if the program could not do all.
        """
        try:
            self._has_ended.wait(timeout)
        except KeyboardInterrupt:
            self.stop()
            raise
        if not self.is_running and self.exit_code != 0 and not self.was_stopped:
            raise error_of(self._process.returncode, "\n".join(self._errors))
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        """Saves, stops and waits for that; a Ctrl-C meanwhile stops without saving."""
        self._interrupt()
        try:
            self._has_ended.wait()
        except KeyboardInterrupt:
            self._interrupt()
            self._has_ended.wait()
            raise

    def __repr__(self) -> str:
        state = "running" if self.is_running else "stopped" if self.was_stopped else f"exit code {self.exit_code}"
        return f"<Run of {self.sweep or 'a sweep'}: {state}, {self.n_done} of {self.n_jobs} jobs done>"

    def _interrupt(self) -> None:
        if self.is_running:
            self._process.send_signal(signal.SIGINT)

    def _recorded(self) -> tuple[str, Path]:
        if self.sweep is None or self.runs_dir is None:
            raise SaeRunError("the sweep has not been recorded yet", "wait until its plan is there: `n_jobs` is not 0")
        return self.sweep, self.runs_dir

    def _watch(self) -> None:
        """Reads what the program prints until it ends."""
        process = self._process
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=self._read_errors, args=(process.stderr,), daemon=True)
        reader.start()
        for line in process.stdout:
            try:
                self._take(json.loads(line))
            except Exception as error:
                self._failure = self._failure or error
        process.wait()
        reader.join()
        try:
            if self._bars is not None:
                self._bars.close()
        finally:
            self._has_ended.set()

    def _read_errors(self, stream: IO[str]) -> None:
        self._errors.extend(line.rstrip("\n") for line in stream)

    def _take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "plan":
                self.sweep, self.runs_dir = event["sweep"], self._folder / event["runs_dir"]
                self.n_done, self.n_jobs = event["n_done"], event["n_jobs"]
            case "job_done":
                self.n_done += 1
            case "remark" | "note":
                self._say(event["message"])
        if event["event"] in ("plan", "job_done") and self._bars is not None and self.sweep is not None:
            self._bars.jobs(self.sweep, self.n_done, self.n_jobs)
        if "stream_id" in event:
            self._take_of_stream(event)

    def _take_of_stream(self, event: dict[str, Any]) -> None:
        stream_id = event["stream_id"]
        stream = self.streams.setdefault(stream_id, StreamProgress(stream_id))
        stream.take(event)
        # Metrics come in numbers, and the report of the progress after them.
        if self._bars is not None and event["event"] != "metric":
            self._bars.stream(stream)

    def _say(self, message: str) -> None:
        self.messages.append(message)
        if self._bars is not None:
            self._bars.say(message)


@atexit.register
def _stop_all() -> None:
    for running in list(_running):
        running.stop()


def run(
    sweep: str | os.PathLike[str],
    set: Mapping[str, Any] | None = None,
    *,
    device: str | None = None,
    devices: Sequence[str] | None = None,
    jobs: int | None = None,
    fresh: bool = False,
    yes: bool = False,
    take_over: bool = False,
    wait: bool = True,
    progress: bool = True,
) -> Run:
    """Trains the SAEs of a sweep file; what is done already stays done.

    `set`: values laid over the file, such as `{"train.k": 64}` or `{"train": {"k": 64}}`. `device`, `devices`, `jobs`,
    `fresh`, `yes` and `take_over` are the program's options; `fresh` needs `yes` to forget anything.
    `wait=False` returns at once; `progress=False` draws no bars.

    Raises `SaeRunError` with the program's text and hint. Ctrl-C saves, as `Run.stop()` does.
    """
    options = {"device": device, "devices": ",".join(devices) if devices else None, "jobs": jobs}
    args = [*settings(set), *(arg for name, value in options.items() for arg in option(name, value))]
    return _start([*args, *_flags(fresh, yes, take_over), os.fspath(sweep)], wait, progress)


def train(
    model: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    *,
    fresh: bool = False,
    yes: bool = False,
    take_over: bool = False,
    wait: bool = True,
    progress: bool = True,
    **options: Any,
) -> Run:
    """Trains one job from options, under sparsify's names: `hookpoints=["layers.3"]`, `k=64`, `transcode=True`.

    `sae-run train --help` lists them. `hf_token` is given to the program by its environment. The rest is as for `run`.
    """
    token = options.pop("hf_token", None)
    args = [arg for name, value in options.items() for arg in option(name, value)]
    variables = {} if token is None else {"HF_TOKEN": token}
    args = ["train", os.fspath(model), os.fspath(dataset), *args, *_flags(fresh, yes, take_over)]
    return _start(args, wait, progress, variables)


def _flags(fresh: bool, yes: bool, take_over: bool) -> list[str]:
    flags = {"--fresh": fresh, "--yes": yes, "--take-over": take_over}
    return [flag for flag, is_set in flags.items() if is_set]


def _start(args: list[str], wait: bool, progress: bool, variables: Mapping[str, str] | None = None) -> Run:
    started = Run(args, progress=progress, variables=variables)
    return started.wait() if wait else started
