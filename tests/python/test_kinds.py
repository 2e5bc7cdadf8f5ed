"""Every kind of SAE as training saves it, in the middle and at the end: the same in SAELens as here."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import MODEL, SWEEP, TEXTS, job_of
from test_run import step_of, until

import sae_run

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("transformers")

from tiny import activations, relative, tiny_llama, tokens_of  # noqa: E402

from sae_run import Sae  # noqa: E402

# Of the largest value.
TOLERANCE = 1e-5
MLP = {"hookpoints": ["layers.0.mlp"]}
TRANSCODER = {"transcode": True, **MLP}
SKIP_TRANSCODER = {"skip_connection": True, **TRANSCODER}
WHITENED = {"normalize_activations": "covariance_whitening", "norm_estimate_tokens": 512, "normalize_decoder": False}
SCALED = {"normalize_activations": "expected_average_only_in", "norm_estimate_tokens": 512}
RESCALED = {"rescale_acts_by_decoder_norm": True, "normalize_decoder": False, "decoder_init_norm": 0.1}
JUMPRELU = {"activation": "jumprelu", "l0_coefficient": 0.01}
GATED = {"activation": "gated", "l1_coefficient": 0.01}
RELU = {"activation": "relu", "l1_coefficient": 0.01}
BATCHTOPK = {"activation": "batchtopk", "k": 4}
MATRYOSHKA = {"matryoshka_widths": [0.25, 0.5]}
# By the name of the job: its settings, and the architecture that its files have.
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "relu": (RELU, "standard"),
    "relu_as_is": ({**RELU, "apply_b_dec_to_input": False}, "standard"),
    "relu_transcoder": ({**RELU, **TRANSCODER}, "transcoder"),
    "relu_skip_transcoder": ({**RELU, **SKIP_TRANSCODER}, "skip_transcoder"),
    "jumprelu": (JUMPRELU, "jumprelu"),
    "jumprelu_as_is": ({**JUMPRELU, **SCALED, "apply_b_dec_to_input": False}, "jumprelu"),
    "jumprelu_whitened": ({**JUMPRELU, **WHITENED}, "jumprelu"),
    "jumprelu_matryoshka": ({**JUMPRELU, **MATRYOSHKA}, "jumprelu"),
    "jumprelu_transcoder": ({**JUMPRELU, **TRANSCODER}, "jumprelu_transcoder"),
    "jumprelu_skip_transcoder": ({**JUMPRELU, **SKIP_TRANSCODER}, "jumprelu_skip_transcoder"),
    "gated": (GATED, "gated"),
    "gated_as_is": ({**GATED, **SCALED, "apply_b_dec_to_input": False}, "gated"),
    "batchtopk": (BATCHTOPK, "jumprelu"),
    "batchtopk_rescaled": ({**BATCHTOPK, **RESCALED}, "jumprelu"),
    "batchtopk_whitened": ({**BATCHTOPK, **RESCALED, **WHITENED}, "jumprelu"),
    "matryoshka": ({**BATCHTOPK, **RESCALED, **MATRYOSHKA, **SCALED}, "jumprelu"),
    "batchtopk_transcoder": ({**BATCHTOPK, **TRANSCODER}, "jumprelu_transcoder"),
    "batchtopk_skip_transcoder": ({**BATCHTOPK, **SKIP_TRANSCODER, **SCALED}, "jumprelu_skip_transcoder"),
}
# What SAELens does not have, and must not take for something else.
OURS: dict[str, tuple[dict[str, Any], str]] = {
    "gated_transcoder": ({**GATED, **TRANSCODER}, "gated_transcoder"),
    "gated_skip_transcoder": ({**GATED, **SKIP_TRANSCODER}, "gated_skip_transcoder"),
}
# Some hundred updates: enough for a stop in between.
LONG = {"name": "saved", "train.max_examples": 300, "train.batch_size": 1, "train.save_every": 1000}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> sae_run.Run:
    """A sweep of all kinds, which was stopped once; `in_the_middle` next to its runs has what it had saved then."""
    folder = tmp_path_factory.mktemp("saved")
    jobs = [f"    yield job(dict({settings}), name={name!r})\n" for name, (settings, _) in (KINDS | OURS).items()]
    (folder / "jobs.py").write_text("def plan(request):\n" + "".join(jobs))
    settings, launch = SWEEP.split("[vary]")[0], "[launch]" + SWEEP.split("[launch]")[1]
    settings += "eval_fraction = 0.05\neval_max_examples = 1000\nexpansion_factor = 4\nhookpoints = ['layers.1']\n"
    path = folder / "saved.toml"
    path.write_text(f"recipe = 'jobs.py'\nruns_dir = {str(folder / 'runs')!r}\n{settings}{launch}")
    run = sae_run.run(path, LONG, wait=False, progress=False)
    until(lambda: step_of(run) >= 5 or not run.is_running)
    run.stop()
    assert {job.status for job in run.jobs} == {"stopped"}
    for name in KINDS | OURS:
        shutil.copytree(folder_of(run, name), folder / "in_the_middle" / name)
    return sae_run.run(path, LONG, progress=False)


def folder_of(run: sae_run.Run, name: str) -> Path:
    """The folder of its SAE."""
    assert run.runs_dir is not None
    (cfg,) = (run.runs_dir / job_of(run, name).show()["dir"]).rglob("cfg.json")
    return cfg.parent


@pytest.fixture(params=["in the middle", "at the end"])
def folders(request: pytest.FixtureRequest, finished: sae_run.Run) -> dict[str, Path]:
    """By name of the job, the folder of its SAE."""
    if request.param == "at the end":
        return {name: folder_of(finished, name) for name in KINDS | OURS}
    assert finished.runs_dir is not None
    return {name: finished.runs_dir.parent / "in_the_middle" / name for name in KINDS | OURS}


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tokens_of(MODEL, TEXTS, tmp_path_factory.mktemp("held_out"))


def load(folder: Path) -> Sae:
    (sae,) = sae_run.load(folder).values()
    return sae


def activations_of(name: str, sae: Sae, input_ids: Any) -> tuple[Any, Any]:
    # The folder of a stopped job was copied under the job's name: its own name is what cfg.json says.
    assert sae.hookpoint == (KINDS | OURS)[name][0].get("hookpoints", ["layers.1"])[0]
    x, y = activations(tiny_llama(), sae, input_ids)
    return x.flatten(0, 1), y.flatten(0, 1)


def is_clear(sae: Sae, x: Any) -> Any:
    """Tokens none of whose latents is so close to where it becomes active that rounding decides it."""
    pre_acts = sae.encoder(x - sae.b_dec if sae.subtracts_b_dec else x)
    threshold = 0.0 if sae.threshold is None else sae.threshold.clamp_min(0.0)
    return (pre_acts - threshold).abs().amin(-1) > TOLERANCE * pre_acts.abs().max()


def assert_close(ours: Any, theirs: Any) -> None:
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_saelens_computes_the_same(name: str, folders: dict[str, Path], held_out: Any) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    theirs, ours = sae_lens.SAE.load_from_disk(folders[name]), load(folders[name])
    assert theirs.cfg.architecture() == KINDS[name][1]
    x, _ = activations_of(name, ours, held_out)
    clear = is_clear(ours, x)
    assert clear.float().mean() > 0.9
    x = x[clear]
    acts = theirs.encode(x)
    assert (acts > 0).any() and not (acts > 0).all()
    dense = ours.encode(x, dense=True)
    assert torch.equal(dense > 0, acts > 0)
    assert_close(dense, acts)
    assert_close(ours.decode(dense), theirs.decode(acts))
    assert_close(ours(x, x).sae_out if ours.d_out == ours.d_in else ours.reconstruct(x, ours.encode(x)), theirs(x))
    given_back = ours.to_saelens()
    assert given_back.cfg.architecture() == theirs.cfg.architecture()
    assert_close(given_back(x), theirs(x))


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_what_saelens_lacks_is_refused_there_and_read_here(name: str, folders: dict[str, Path], held_out: Any) -> None:
    config = json.loads((folders[name] / "cfg.json").read_text())
    assert config["architecture"] == OURS[name][1]
    sae = load(folders[name])
    x, _ = activations_of(name, sae, held_out)
    assert sae.encode(x, dense=True).any()
    sae_lens = pytest.importorskip("sae_lens")
    with pytest.raises((KeyError, ValueError), match=OURS[name][1]):
        sae_lens.SAE.load_from_disk(folders[name])
    with pytest.raises(sae_run.SaeRunError, match="SAELens does not support"):
        sae.to_saelens()


@pytest.mark.parametrize("name", KINDS | OURS)
@torch.no_grad()
def test_numbers_are_those_of_the_evaluation(name: str, finished: sae_run.Run, held_out: Any) -> None:
    job = job_of(finished, name)
    ((sae_name, sae),) = job.load().items()
    evaluation = job.evaluations().set_index("sae").loc[sae_name]
    x, y = activations_of(name, sae, held_out)
    reconstruction = sae(x, y)
    assert reconstruction.fvu.item() == pytest.approx(evaluation.fvu, rel=1e-5)
    # A latent at its threshold may be active in one of them.
    l0 = (reconstruction.latent_acts > 0).sum(-1).double().mean().item()
    assert l0 == pytest.approx(evaluation.l0, abs=3 / len(x))
    model = tiny_llama()
    with sae_run.splice(model, {sae_name: sae}):
        logits = model(held_out).logits[:, :-1].float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), held_out[:, 1:].flatten())
    assert loss.item() == pytest.approx(evaluation.ce_spliced, rel=1e-5)


@pytest.mark.parametrize("name", ["matryoshka", "gated_as_is", "jumprelu_skip_transcoder"])
@torch.no_grad()
def test_a_model_computes_the_same_with_an_sae_of_saelens(name: str, finished: sae_run.Run, held_out: Any) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    folder = folder_of(finished, name)
    theirs, ours = sae_lens.SAE.load_from_disk(folder), load(folder)
    model = tiny_llama()

    def spliced(_: object, args: tuple[Any, ...], output: Any) -> Any:
        y = output[0] if isinstance(output, tuple) else output
        made = theirs(args[0] if ours.cfg.transcode else y)
        return (made, *output[1:]) if isinstance(output, tuple) else made

    handle = model.base_model.get_submodule(ours.hookpoint).register_forward_hook(spliced)
    expected = model(held_out).logits
    handle.remove()
    with sae_run.splice(model, ours):
        assert relative(model(held_out).logits, expected) < 1e-5
