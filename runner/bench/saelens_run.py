"""One run of SAELens 6.54 on the CPU, from process start to saved SAEs, as JSON.

    python saelens_run.py '{"model": DIR, "tokens": FILE, "id_bytes": 2, "ctx_len": 256, "batch_size": 8,
        "n_updates": 8, "lr": 1e-3, "layer": 15, "threads": 2, "save_dir": DIR,
        "saes": [{"architecture": "topk", "d_in": 576, "d_sae": 4608, "k": 32}]}'

One SAE is trained by its `LanguageModelSAETrainingRunner`, several by its `MultiSAETrainingRunner`, on one pass
through the model. The model is transformers', which SAELens takes where TransformerLens does not know one, and is
stopped after the layer.
Only tokens come as rows of a data set in memory, as `sae-run data --out` writes them, in training order. The buffer
of its `ActivationsStore` holds one batch, so that no token is read that nothing is trained on, and batches are
those of our run. The answer has the moment of the end of every update of all SAEs, and FVU and L0 by SAE and update.
"""

import json
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"

from contextlib import redirect_stdout
from dataclasses import dataclass, field

import numpy
import torch
from datasets import Dataset
from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, LoggingConfig
from sae_lens.multi_sae_training_runner import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer


@dataclass
class Noted:
    """Of one SAE, by update."""

    fvu: list[float] = field(default_factory=list)
    l0: list[float] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)


def note_updates() -> dict[SAETrainer, Noted]:
    """What its trainers do from now on, in the order in which they begin."""
    notes: dict[SAETrainer, Noted] = {}
    original = SAETrainer.step

    def step(trainer: SAETrainer, batch: torch.Tensor):
        fired_before = trainer.act_freq_scores.sum().item()
        out = original(trainer, batch)
        noted = notes.setdefault(trainer, Noted())
        variance = (out.sae_in - out.sae_in.mean(0)).square().sum(1).mean()
        noted.fvu.append((out.losses["mse_loss"] / variance).item())
        noted.l0.append((trainer.act_freq_scores.sum().item() - fired_before) / len(batch))
        noted.ends_s.append(time.time())
        return out

    SAETrainer.step = step
    return notes


def sae_config(order: dict) -> TrainingSAEConfig:
    settings = dict(order)
    _, config_class = get_sae_training_class(settings.pop("architecture"))
    return config_class(**settings)


def runner_of(order: dict) -> LanguageModelSAETrainingRunner | MultiSAETrainingRunner:
    id_dtype = {2: numpy.uint16, 4: numpy.uint32}[order["id_bytes"]]
    tokens = numpy.fromfile(order["tokens"], dtype=id_dtype).reshape(-1, order["ctx_len"])
    dataset = Dataset.from_dict({"input_ids": tokens.astype(numpy.int64)})
    tokens_per_update = order["batch_size"] * order["ctx_len"]
    hook_name = f"model.layers.{order['layer']}"
    settings = {
        "model_name": order["model"],
        "model_class_name": "AutoModelForCausalLM",
        "context_size": order["ctx_len"],
        "n_batches_in_buffer": order["batch_size"],
        "store_batch_size_prompts": order["batch_size"],
        "train_batch_size_tokens": tokens_per_update,
        "training_tokens": tokens_per_update * order["n_updates"],
        "lr": order["lr"],
        "logger": LoggingConfig(log_to_wandb=False),
        "checkpoint_path": None,
        "output_path": order["save_dir"],
    }
    saes = [sae_config(sae) for sae in order["saes"]]
    if len(saes) == 1:
        config = LanguageModelSAERunnerConfig(sae=saes[0], hook_name=hook_name, **settings)
        return LanguageModelSAETrainingRunner(config, override_dataset=dataset)
    named = {f"sae_{idx}": sae for idx, sae in enumerate(saes)}
    config = MultiSAETrainingRunnerConfig(saes=named, hook_names=hook_name, **settings)
    return MultiSAETrainingRunner(config, override_dataset=dataset)


def main() -> None:
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    notes = note_updates()
    with redirect_stdout(sys.stderr):
        runner_of(order).run()
    by_sae = list(notes.values())
    # Of an update, the last SAE's.
    answer = {"update_ends_s": by_sae[-1].ends_s, "fvu": [noted.fvu for noted in by_sae]}
    print(json.dumps({**answer, "l0": [noted.l0 for noted in by_sae]}))


if __name__ == "__main__":
    main()
