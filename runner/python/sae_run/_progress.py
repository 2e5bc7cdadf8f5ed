"""Bars for what a running sweep reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class StreamProgress:
    """How far a stream is. `fvu`: the latest of each SAE, by job and name."""

    stream_id: str
    doing: str = "starting"
    step: int = 0
    n_steps: int = 0
    tokens_per_s: float | None = None
    fvu: dict[tuple[str, str], float] = field(default_factory=dict)

    def take(self, event: dict[str, Any]) -> None:
        """Takes an event of its worker."""
        match event["event"]:
            case "started":
                self.doing = f"loading on {event['device']}"
            case "tokenising":
                self.doing = f"tokenising {100 * event['n_bytes_read'] // max(event['n_bytes_total'], 1)} %"
            case "ready":
                self.doing, self.step, self.n_steps = "training", event["first_step"], event["n_steps"]
            case "metric":
                stats = event["stats"]
                if stats["squared_error"] is not None and stats["total_variance"]:
                    self.fvu[event["job_id"], event["sae"]] = stats["squared_error"] / stats["total_variance"]
            case "progress":
                self.step = event["step"]
                self.tokens_per_s = 1000 * event["n_tokens"] / max(event["elapsed_ms"], 1)
            case "evaluating":
                self.doing = f"evaluating {event['n_done']}/{event['n_sequences']}"
            case "failed" | "interrupted" | "finished":
                self.doing = event["event"]

    def describe(self) -> str:
        """What is next to the bar."""
        parts = []
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:.0f} tokens/s")
        if self.fvu:
            parts.append(f"FVU {min(self.fvu.values()):.3f} to {max(self.fvu.values()):.3f}")
        return ", ".join(parts)


class Bars:
    """A bar for the sweep's jobs, and one for the updates of each stream that runs, by `tqdm.auto`."""

    def __init__(self) -> None:
        # Not before it is needed: it looks whether this is a notebook.
        from tqdm.auto import tqdm

        self._tqdm = tqdm
        self._jobs: Any = None
        self._streams: dict[str, Any] = {}

    def jobs(self, sweep: str, n_done: int, n_jobs: int) -> None:
        if self._jobs is None:
            self._jobs = self._tqdm(desc=sweep, total=n_jobs, initial=n_done, unit="job", dynamic_ncols=True)
        self._set(self._jobs, n_done, n_jobs)

    def stream(self, stream: StreamProgress) -> None:
        bar = self._streams.get(stream.stream_id)
        if bar is None:
            bar = self._tqdm(desc=stream.doing, total=0, unit="update", leave=False, dynamic_ncols=True)
            self._streams[stream.stream_id] = bar
        bar.set_description(stream.doing, refresh=False)
        bar.set_postfix_str(stream.describe(), refresh=False)
        self._set(bar, stream.step, stream.n_steps)

    def say(self, text: str) -> None:
        self._tqdm.write(text)

    def close(self) -> None:
        for bar in [*self._streams.values(), *([self._jobs] if self._jobs is not None else [])]:
            bar.refresh()
            bar.close()

    @staticmethod
    def _set(bar: Any, n: int, total: int) -> None:
        if total != bar.total:
            # A notebook's bar has to be made for its total. What was done before counts for no speed.
            bar.reset(total)
            bar.initial = bar.n = bar.last_print_n = n
            bar.refresh()
        # Drawn as often as tqdm sees fit.
        bar.update(n - bar.n)
