"""What the parts of the kit share: their arguments, their record, and whether each check passed."""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def read_args(doc: str) -> argparse.Namespace:
    return parser_of(doc).parse_args()


def parser_of(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    parser.add_argument("--bin", type=Path, required=True, help="the folder of the programs")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu; default: cuda")
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that all of it works")
    return parser


def with_index(device: str) -> str:
    """As PyTorch needs it where a GPU is chosen."""
    return "cuda:0" if device == "cuda" else device


class Part:
    """Checks of one part, told as they end, and kept in `OUT/NAME.json`."""

    def __init__(self, name: str, args: argparse.Namespace):
        self.name = name
        self.programs = args.bin.resolve()
        self.out = args.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.device = args.device
        self.is_cpu = args.device == "cpu"
        self.scratch = Path(tempfile.mkdtemp(prefix=f"sae-run-{name}-"))
        self.record: dict = {"checks": []}

    def note(self, check: str, is_good: bool | None, text: str) -> None:
        """`None`: not checked."""
        print(f"{check}: {text}", file=sys.stderr, flush=True)
        self.record["checks"].append({"check": check, "is_good": is_good, "text": text})
        self.save()

    @contextmanager
    def cases(self) -> Iterator[list]:
        """The list for what is measured, to save after each case. SIGTERM ends the work, and what is done counts."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.record = {"began": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()), "cases": []}
        try:
            yield self.record["cases"]
        except KeyboardInterrupt:
            print("stopped before the end", file=sys.stderr)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def save(self) -> None:
        path = self.out / f"{self.name}.json"
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(self.record, indent=1), encoding="utf-8")
        os.replace(beside, path)

    def summarise(self) -> int:
        """Prints the table; the exit code."""
        words = {True: "ok", False: "FAILED", None: "not checked"}
        print("| check | | |\n|---|---|---|")
        for check in self.record["checks"]:
            print(f"| {check['check']} | {words[check['is_good']]} | {check['text']} |")
        return int(any(check["is_good"] is False for check in self.record["checks"]))
