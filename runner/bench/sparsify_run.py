"""One run of sparsify 1.3.3 on the CPU, from process start to checkpoint, as JSON.

    python sparsify_run.py '{"model": DIR, "tokens": FILE, "ctx_len": 256, "batch_size": 8,
        "hookpoints": [...], "k": 32, "expansion_factor": 32, "threads": 2, "save_dir": DIR}'

Its own command line asks for CUDA, so its `Trainer` is driven as that command line does. The tokens
come as `sae-run data --out` writes them, in training order. The answer has the moment of the end of
every update and its FVU by hookpoint.
"""

import json
import os
import sys
import time

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

from contextlib import redirect_stdout

import torch
from sparsify import SaeConfig, SparseCoder, TrainConfig, Trainer
from sparsify.data import MemmapDataset
from transformers import AutoModel


def trainer_of(order: dict) -> Trainer:
    model = AutoModel.from_pretrained(order["model"], dtype=torch.float32)
    sae = SaeConfig(k=order["k"], expansion_factor=order["expansion_factor"])
    config = TrainConfig(
        sae,
        hookpoints=order["hookpoints"],
        batch_size=order["batch_size"],
        log_to_wandb=False,
        save_dir=order["save_dir"],
    )
    return Trainer(config, MemmapDataset(order["tokens"], order["ctx_len"]), model)


def main() -> None:
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    fvu, updates = [], []
    original = SparseCoder.forward

    def forward(sae, **kwargs):
        out = original(sae, **kwargs)
        # The trainer itself waits for this number too.
        fvu.append(out.fvu.item())
        return out

    SparseCoder.forward = forward
    with redirect_stdout(sys.stderr):
        trainer = trainer_of(order)
        (optimizer,) = trainer.optimizers
        optimizer.base.register_step_post_hook(lambda *_: updates.append(time.time()))
        trainer.fit()
    n_saes = len(trainer.saes)
    by_update = [fvu[first : first + n_saes] for first in range(0, len(fvu), n_saes)]
    print(json.dumps({"update_ends_s": updates, "fvu": by_update}))


if __name__ == "__main__":
    main()
