"""Compares the speed of our library's forward pass with that of transformers, in turn pass by pass.

    cargo build -p sae-run-lm --example forward_speed
    python forward_speed.py MODEL_DIR target/debug/examples/forward_speed

Both run all blocks and the final norm without the head, in float32 on the CPU, with as many threads
on the same libtorch: ours is made to load the one of this Python. Transformers runs with sdpa, in
inference mode and without a cache. The ratio is the median over the rounds, of which each runs both.
The CPU time beside the wall time tells whether something else was running, and so does a matrix
product before and after.

Both run with a heap that keeps freed memory. As it is by default, glibc may or may not give the
memory of one block back to the kernel before the next one needs it again, by chance of what lies
where; that makes a process up to a tenth slower. `--default-heap` leaves it so.

Needs torch 2.13 and transformers 5. Exits with 1 where ours is slower, or the outputs differ.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import torch
from transformers import AutoModel

LIBTORCH = Path(torch.__file__).parent / "lib"
# Relative, of the root mean square of the output.
TOLERANCE = 1e-5
# mallopt(3): what a process reads when it starts, in bytes.
KEEPING_HEAP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}


class Ours:
    """The Rust example, which waits on its standard input between the passes."""

    def __init__(self, args: argparse.Namespace, tokens: Path):
        command = [args.binary, args.model_dir, tokens, str(args.threads)]
        env = os.environ | {"LD_LIBRARY_PATH": str(LIBTORCH)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        # The kernel's clock of another process's CPU time, see clock_getcpuclockid(3).
        self.cpu_clock = ~self.process.pid << 3 | 2

    def run(self) -> tuple[float, float, float]:
        """Wall time and CPU time in seconds, and the root mean square of the output."""
        start = time.clock_gettime(self.cpu_clock)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        cpu_s = time.clock_gettime(self.cpu_clock) - start
        return answer["wall_s"], cpu_s, answer["rms"]

    def libtorch(self) -> set[str]:
        """The libtorch files that the process has mapped."""
        maps = Path(f"/proc/{self.process.pid}/maps").read_text().splitlines()
        return {line.split()[-1] for line in maps if "/libtorch_cpu.so" in line}


class Theirs:
    """Transformers, in this process."""

    def __init__(self, args: argparse.Namespace, input_ids: torch.Tensor):
        torch.set_num_threads(args.threads)
        self.input_ids = input_ids
        self.model = AutoModel.from_pretrained(
            args.model_dir, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    @torch.inference_mode()
    def run(self) -> tuple[float, float, float]:
        """As `Ours.run`."""
        start, cpu_start = time.perf_counter(), time.process_time()
        output = self.model(self.input_ids, use_cache=False).last_hidden_state
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
        return wall_s, cpu_s, output.square().mean().sqrt().item()


def gemm_gflops() -> float:
    """Speed of a matrix product of the size of an MLP's."""
    a, b = torch.randn(2048, 576), torch.randn(576, 1536)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * a.numel() * b.shape[1] / median(times) / 1e9


def show(name: str, passes: list[tuple[float, float, float]], n_tokens: int) -> None:
    """Prints the medians of tokens per second of wall time and of CPU time."""
    wall = median(n_tokens / wall_s for wall_s, _, _ in passes)
    cpu = median(n_tokens / cpu_s for _, cpu_s, _ in passes)
    walls = " ".join(f"{wall_s:.2f}" for wall_s, _, _ in passes)
    print(f"{name:12} {wall:7.1f} tokens/s   {cpu:7.1f} tokens/CPU-s   passes in s: {walls}")


def show_ratio(name: str, our_s: list[float], their_s: list[float]) -> float:
    """Prints quartiles of how many times as fast ours was, and gives the median."""
    first, middle, third = quantiles(theirs / ours for ours, theirs in zip(our_s, their_s))
    print(f"ours is {middle:.3f} times as fast by {name} (quartiles {first:.3f} to {third:.3f})")
    return middle


def read_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_dir")
    parser.add_argument("binary")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--ctx-len", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--default-heap", action="store_true")
    return parser.parse_args()


def start_both(args: argparse.Namespace) -> tuple[Ours, Theirs]:
    """Both models, each after a first pass, of which the outputs are compared."""
    torch.manual_seed(0)
    config = json.loads(Path(args.model_dir, "config.json").read_text())
    input_ids = torch.randint(config["vocab_size"], (args.batch, args.ctx_len))
    with tempfile.TemporaryDirectory() as scratch:
        tokens = Path(scratch) / "tokens.json"
        tokens.write_text(json.dumps(input_ids.tolist()))
        ours, theirs = Ours(args, tokens), Theirs(args, input_ids)
        (_, _, our_rms), (_, _, their_rms) = ours.run(), theirs.run()
    if not abs(our_rms / their_rms - 1) <= TOLERANCE:
        sys.exit(f"the outputs differ: root mean square {our_rms} and {their_rms}")
    print(f"libtorch {torch.__version__}: ours maps {', '.join(ours.libtorch())}")
    return ours, theirs


def main() -> int:
    args = read_args()
    if not args.default_heap and not KEEPING_HEAP.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEPING_HEAP)
    ours, theirs = start_both(args)
    passes = {ours: [], theirs: []}
    gemm = gemm_gflops()
    for round_idx in range(args.rounds):
        # Who goes first changes from round to round.
        for arm in (ours, theirs) if round_idx % 2 == 0 else (theirs, ours):
            passes[arm].append(arm.run())
    n_tokens = args.batch * args.ctx_len
    print(f"{args.batch} x {args.ctx_len} tokens, {args.threads} threads, {args.rounds} rounds")
    show("ours", passes[ours], n_tokens)
    show("transformers", passes[theirs], n_tokens)
    (our_wall_s, our_cpu_s, _), (their_wall_s, their_cpu_s, _) = (
        zip(*passes[arm]) for arm in (ours, theirs)
    )
    ratio = show_ratio("wall time", our_wall_s, their_wall_s)
    show_ratio("CPU time", our_cpu_s, their_cpu_s)
    print(f"matrix product: {gemm:.0f} GFLOP/s before, {gemm_gflops():.0f} after")
    ours.process.stdin.close()
    return int(ratio < 1)


if __name__ == "__main__":
    sys.exit(main())
