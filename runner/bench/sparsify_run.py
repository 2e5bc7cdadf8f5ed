"""One run of sparsify 1.3.3, from process start to checkpoint, as JSON.

    python sparsify_run.py '{"model": DIR, "tokens": FILE, "id_bytes": 2, "ctx_len": 256, "batch_size": 8,
        "hookpoints": [...], "sae": {"k": 32, "expansion_factor": 32}, "device": "cpu", "dtype": "float32",
        "threads": 2, "save_dir": DIR}'

Its `Trainer` is driven as its command line does, which itself asks for CUDA and for documents. The tokens come as
`sae-run data --out` writes them, in training order. The answer has the moment of the end of every update, its FVU
by hookpoint, and the most bytes that tensors had on a GPU.
"""

import json
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"

from contextlib import redirect_stdout

import numpy as np
import torch
from sparsify import SaeConfig, SparseCoder, TrainConfig, Trainer
from sparsify.data import MemmapDataset
from transformers import AutoModel


def trainer_of(order: dict) -> Trainer:
    on_gpu = {"device_map": {"": order["device"]}} if order["device"] != "cpu" else {}
    model = AutoModel.from_pretrained(order["model"], dtype=getattr(torch, order["dtype"]), **on_gpu)
    config = TrainConfig(
        SaeConfig(**order["sae"]),
        hookpoints=order["hookpoints"],
        batch_size=order["batch_size"],
        log_to_wandb=False,
        save_dir=order["save_dir"],
    )
    id_dtype = {2: np.uint16, 4: np.uint32}[order["id_bytes"]]
    return Trainer(config, MemmapDataset(order["tokens"], order["ctx_len"], dtype=id_dtype), model)


def main() -> None:
    order = json.loads(sys.argv[1])
    on_gpu = order["device"] != "cpu"
    torch.set_num_threads(order["threads"])
    if on_gpu:
        # Triton takes the GPU that is chosen, whatever its tensors are on.
        torch.cuda.set_device(order["device"])
    fvu, updates = [], []
    original = SparseCoder.forward

    def forward(sae, **kwargs):
        out = original(sae, **kwargs)
        # The trainer itself waits for this number too.
        fvu.append(out.fvu.item())
        return out

    def note_update(*_) -> None:
        if on_gpu:
            torch.cuda.synchronize()
        updates.append(time.time())

    SparseCoder.forward = forward
    with redirect_stdout(sys.stderr):
        trainer = trainer_of(order)
        (optimizer,) = trainer.optimizers
        optimizer.base.register_step_post_hook(note_update)
        trainer.fit()
    n_saes = len(trainer.saes)
    by_update = [fvu[first : first + n_saes] for first in range(0, len(fvu), n_saes)]
    peak_bytes = torch.cuda.max_memory_allocated() if on_gpu else None
    print(json.dumps({"update_ends_s": updates, "fvu": by_update, "gpu_peak_bytes": peak_bytes}))


if __name__ == "__main__":
    main()
