"""Updates of one SAE on the same activations: ours through the example `bench_step`, sparsify's here."""

import json
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
from common import D_IN, Settings, our_environment
from safetensors.torch import load_file, save_file
from schedulefree import ScheduleFreeWrapper
from sparsify import SaeConfig, SparseCoder
from sparsify.sign_sgd import SignSGD

N_GATE_UPDATES = 3
MOST_OF_GRADIENT, MOST_OF_FVU = 1e-4, 0.01


class Ours:
    """The Rust example, which waits on its standard input. `kernels`: `SAE_RUN_KERNELS`."""

    def __init__(self, settings: Settings, kernels: str | None = None):
        command = [settings.bench_step, "--serve", "--device", settings.device]
        command += ["--threads", str(settings.threads)]
        environment = our_environment(settings)
        if kernels is not None:
            environment["SAE_RUN_KERNELS"] = kernels
        # The most memory of the GPU that tensors had.
        self.peak_bytes: int | None = None
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, what: str, **values) -> dict:
        print(json.dumps({"do": what, **values}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("error: bench_step has ended; it says why above")
        return json.loads(line)

    def step(self) -> tuple[float, float]:
        answer = self.ask("step")
        self.peak_bytes = answer["peak_bytes"]
        return answer["wall_s"], answer["fvu"]

    def close(self) -> None:
        # It may have ended before it read all.
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


@lru_cache(maxsize=1)
def first_weights(d_in: int, num_latents: int) -> dict[str, torch.Tensor]:
    """Drawn on the CPU, as ours are: a GPU draws other numbers."""
    torch.manual_seed(0)
    return SparseCoder(d_in, SaeConfig(num_latents=num_latents)).state_dict()


class Theirs:
    """What sparsify's `Trainer` does in an update with one hookpoint, without its masks and copies.

    `x`: where it is, there the update is; on a GPU its command line has it in bfloat16. `micro_acc_steps`: in how many
    parts, which take less memory.
    """

    def __init__(self, x: torch.Tensor, num_latents: int, k: int, micro_acc_steps: int = 1):
        d_in, device = x.shape[1], x.device
        self.x, self.micro_acc_steps = x, micro_acc_steps
        if x.is_cuda:
            torch.cuda.reset_peak_memory_stats(device)
            torch.set_float32_matmul_precision("high")
        config = SaeConfig(num_latents=num_latents, k=k)
        self.sae = SparseCoder(d_in, config, "meta", torch.float32).to_empty(device=device)
        self.sae.load_state_dict(first_weights(d_in, num_latents))
        self.sae.b_dec.data = x.mean(0).to(self.sae.dtype)
        lr = 5e-3 / (num_latents / 2**14) ** 0.5
        self.optimizer = ScheduleFreeWrapper(SignSGD(self.sae.parameters(), lr=lr), momentum=0.95)
        self.optimizer.train()
        self.n_since_fired = torch.zeros(num_latents, dtype=torch.long, device=device)
        self.did_fire = torch.zeros(num_latents, dtype=torch.bool, device=device)

    def backward(self) -> float:
        x, fvu = self.x, 0.0
        self.sae.set_decoder_norm_to_unit_norm()
        total_variance = (x - x.mean(0)).pow(2).sum()
        for part in x.chunk(self.micro_acc_steps):
            out = self.sae(x=part, y=part, dead_mask=None, total_variance=total_variance)
            self.did_fire[out.latent_indices.flatten()] = True
            fvu += float(out.fvu.detach())
            out.fvu.div(self.micro_acc_steps).backward()
        return fvu

    def step(self) -> tuple[float, float]:
        self.wait()
        begun = time.perf_counter()
        fvu = self.backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.n_since_fired += len(self.x)
        self.n_since_fired[self.did_fire] = 0
        self.did_fire.zero_()
        self.wait()
        return time.perf_counter() - begun, fvu

    def wait(self) -> None:
        if self.x.is_cuda:
            torch.cuda.synchronize(self.x.device)

    @property
    def peak_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.x.device) if self.x.is_cuda else None

    def gradients(self) -> dict[str, torch.Tensor]:
        self.backward()
        gradients = {name: p.grad.clone() for name, p in self.sae.named_parameters()}
        self.optimizer.zero_grad()
        return gradients


def gradient_difference(ours: dict, theirs: dict) -> float:
    """The largest relative difference in norm; one that is 0 except for rounding counts by the whole."""
    whole = torch.cat([gradient.flatten() for gradient in theirs.values()]).norm().item()
    differences = [
        (ours[name] - gradient).norm().item() / max(gradient.norm().item(), 1e-4 * whole)
        for name, gradient in theirs.items()
    ]
    return max(differences)


def gate(ours: Ours, theirs: Theirs, folder: Path) -> dict:
    """First the gradients at the same weights, then the FVU of updates; they warm both up as well."""
    path = folder / "gradients.safetensors"
    ours.ask("gradients", path=str(path))
    gradient = gradient_difference(load_file(path), theirs.gradients())
    pairs = [(ours.step()[1], theirs.step()[1]) for _ in range(N_GATE_UPDATES)]
    fvu = max(abs(mine / other - 1) for mine, other in pairs)
    if not (gradient <= MOST_OF_GRADIENT and fvu <= MOST_OF_FVU):
        raise SystemExit(f"error: the arms differ: gradient {gradient:.1e}, FVU {fvu:.2%}")
    return {"gradient": gradient, "fvu": fvu}


def in_products(ours: Ours, arm: Ours | Theirs) -> tuple[float, float]:
    """Seconds of an update, and in encoder products, which are timed before it and after it."""
    before = ours.ask("product")["wall_s"]
    wall_s, _ = arm.step()
    after = ours.ask("product")["wall_s"]
    return wall_s, wall_s / ((before + after) / 2)


def measure(ours: Ours, n_tokens: int, num_latents: int, k: int, n_rounds: int) -> dict:
    torch.manual_seed(1)
    mean = torch.randn(D_IN)
    x = torch.randn(n_tokens, D_IN) + mean
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        save_file({"x": x}, path)
        opened = ours.ask("open", x=str(path), num_latents=num_latents, k=k)
        theirs = Theirs(x, num_latents, k)
        passed = gate(ours, theirs, Path(folder))
    probe = [ours.ask("probe")["gflops"]]
    rounds = {"ours": [], "sparsify": []}
    for round_idx in range(n_rounds):
        arms = [("ours", ours), ("sparsify", theirs)]
        # Who goes first changes from round to round.
        for name, arm in arms if round_idx % 2 == 0 else arms[::-1]:
            rounds[name].append(in_products(ours, arm))
    probe.append(ours.ask("probe")["gflops"])
    case = {"n_tokens": n_tokens, "num_latents": num_latents, "k": k}
    return {**case, "gate": passed, **rounds, "probe_gflops": probe, **opened}
