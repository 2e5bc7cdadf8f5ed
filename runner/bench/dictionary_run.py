"""One run of dictionary_learning 0.1.0 on the CPU, from process start to saved SAEs, as JSON.

    python dictionary_run.py '{"model": DIR, "tokens": FILE, "ctx_len": 256, "batch_size": 8,
        "n_updates": 3, "layer": 15, "d_in": 576, "jobs": [[32, 4608], ...], "threads": 2,
        "save_dir": DIR}'

Everything is its own: `trainSAE` with a `TopKTrainer` for each job, all on one `ActivationBuffer`,
which runs the model through nnsight and stops it after the layer. Only tokens come instead of
text, as `sae-run data --out` writes them, in training order. The buffer holds one batch, so that no
token is read that nothing is trained on, and batches are those of our run. The answer has the moment
of the end of every update of all jobs, and the FVU by job and update.
"""

import itertools
import json
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"

from contextlib import redirect_stdout

import numpy
import torch
from dictionary_learning import ActivationBuffer
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from nnsight import LanguageModel
from transformers import BatchEncoding


class Noted(TopKTrainer):
    """Its trainer, which also notes what `trainSAE` drops: the loss, and when an update ended."""

    def __init__(self, *args, fvu: list, update_ends: list, **kwargs):
        super().__init__(*args, **kwargs)
        self.fvu, self.update_ends = fvu, update_ends

    def update(self, step: int, x: torch.Tensor) -> float:
        loss = super().update(step, x)
        # No latent is dead for 10 million tokens yet, so the loss is the squared error alone.
        self.fvu.append(loss / (x - x.mean(0)).square().sum(1).mean().item())
        self.update_ends.append(time.time())
        return loss


class TokenBuffer(ActivationBuffer):
    """Its buffer, on rows of tokens: what nnsight would have made of text."""

    def text_batch(self, batch_size: int | None = None) -> BatchEncoding:
        rows = list(itertools.islice(self.data, batch_size or self.refresh_batch_size))
        if not rows:
            raise StopIteration("End of data stream reached")
        ids = torch.tensor(rows)
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def buffer_of(order: dict) -> TokenBuffer:
    # Without its patch for Llama 3, which takes any Llama for one under transformers 5.
    how = {"torch_dtype": torch.float32, "patch_llama_scan": False, "dispatch": True}
    model = LanguageModel(order["model"], device_map="cpu", **how)
    tokens = numpy.fromfile(order["tokens"], dtype=numpy.uint16).reshape(-1, order["ctx_len"])
    return TokenBuffer(
        iter(tokens.tolist()),
        model,
        model.model.layers[order["layer"]],
        d_submodule=order["d_in"],
        n_ctxs=order["batch_size"],
        ctx_len=order["ctx_len"],
        refresh_batch_size=order["batch_size"],
        out_batch_size=order["batch_size"] * order["ctx_len"],
        device="cpu",
    )


def trainer_config(order: dict, k: int, num_latents: int, notes: dict) -> dict:
    return {
        "trainer": Noted,
        "steps": order["n_updates"],
        "activation_dim": order["d_in"],
        "dict_size": num_latents,
        "k": k,
        "layer": order["layer"],
        "lm_name": order["model"],
        # Its default of 1000 is more updates than there are.
        "warmup_steps": 0,
        "seed": 0,
        "device": "cpu",
        **notes,
    }


def main() -> None:
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    notes = [{"fvu": [], "update_ends": []} for _ in order["jobs"]]
    with redirect_stdout(sys.stderr):
        trainSAE(
            data=buffer_of(order),
            trainer_configs=[
                trainer_config(order, *job, noted) for job, noted in zip(order["jobs"], notes)
            ],
            steps=order["n_updates"],
            save_dir=order["save_dir"],
            device="cpu",
        )
    # Of an update, the last job's.
    ends = notes[-1]["update_ends"]
    print(json.dumps({"update_ends_s": ends, "fvu": [noted["fvu"] for noted in notes]}))


if __name__ == "__main__":
    main()
