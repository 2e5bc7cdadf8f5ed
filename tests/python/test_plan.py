"""Plans of sweeps."""

from pathlib import Path

import pytest

import sae_run


def test_a_plan_has_jobs_streams_and_memory(workspace: Path) -> None:
    plan = sae_run.plan("tiny.toml")
    assert plan.sweep == "tiny"
    assert [job.name for job in plan.jobs][:2] == [
        "k=4,expansion_factor=2,hookpoints=layers.0",
        "k=4,expansion_factor=2,hookpoints=layers.1.mlp+layers.2",
    ]
    (stream,) = plan.streams
    assert stream.job_ids == [job.job_id for job in plan.jobs]
    assert plan.memory == {stream.stream_id: stream.memory}
    assert stream.memory.model_bytes > 0
    sae = plan.jobs[1].saes[0]
    assert (sae.name, sae.d_in, sae.num_latents, sae.k, sae.seed) == ("layers.1.mlp", 32, 64, 4, 0)
    assert sae.memory["weights_bytes"] > 4 * 2 * 32 * 64
    assert plan.jobs[0].config["ctx_len"] == 64
    assert plan.jobs[0].overrides["k"] == 4
    assert not (workspace / "runs").exists()


def test_settings_are_laid_over_the_file(workspace: Path) -> None:
    changes = {
        "train": {"transcode": True, "hookpoints": ["layers.3"]},
        "vary.k": [2],
        "vary.hookpoints": [["layers.*.mlp"]],
    }
    (job,) = sae_run.plan(workspace / "tiny.toml", set=changes).jobs
    assert job.config["transcode"]
    assert [sae.name for sae in job.saes] == [f"layers.{layer}.mlp" for layer in range(4)]


def test_what_is_wrong_with_a_sweep_is_said(workspace: Path) -> None:
    with pytest.raises(sae_run.SaeRunError) as raised:
        sae_run.plan("tiny.toml", {"train.kk": 3})
    error = raised.value
    assert error.message == "--set `train.kk`: unknown key `train.kk`"
    assert error.hint == "did you mean `train.k`?"
    assert error.exit_code == 2
    assert error.output == f"error: {error.message}\nhint: {error.hint}\n"
    assert str(error) == f"{error.message}\nhint: {error.hint}"
