"""SAEs in a language model."""

from pathlib import Path
from typing import Any

import pytest
from conftest import KINDS, MODEL, TEXTS, job_of

import sae_run

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny import activations, relative, tiny_llama, tokens_of  # noqa: E402


@pytest.fixture
def input_ids(tmp_path: Path) -> Any:
    return tokens_of(MODEL, TEXTS, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_losses_are_those_of_the_evaluation(kind: str, trained: sae_run.Run, input_ids: Any) -> None:
    job, model = job_of(trained, kind), tiny_llama(kind)
    evaluations = job.evaluations().set_index("sae")
    tolerance = 1e-6 if kind != "bfloat16" else 5e-3

    def loss() -> float:
        logits = model(input_ids).logits[:, :-1].float()
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), input_ids[:, 1:].flatten()))

    for name, sae in job.load().items():
        evaluation = evaluations.loc[name]
        with sae_run.splice(model, {name: sae}, record=True) as spliced:
            assert loss() == pytest.approx(evaluation.ce_spliced, rel=tolerance)
        # Nothing of it is left.
        assert loss() == pytest.approx(evaluation.ce_clean, rel=tolerance)
        (encoded,) = spliced.latents[name]
        assert encoded.latent_acts.shape == (*input_ids.shape, 4)
        x, _ = activations(model, sae, input_ids)
        assert torch.equal(encoded.latent_acts, sae.encode(x).latent_acts)


@torch.no_grad()
def test_several_saes_at_a_time(trained: sae_run.Run, input_ids: Any) -> None:
    model, saes = tiny_llama(), job_of(trained, "topk").load()
    clean = model(input_ids).logits
    with sae_run.splice(model, saes) as spliced:
        both = model(input_ids).logits
    assert spliced.latents == {name: [] for name in saes}
    with sae_run.splice(model, saes["layers.1"]):
        one = model(input_ids).logits
    assert not torch.equal(both, one) and not torch.equal(one, clean)
    # A cache of keys and values comes with the output of some modules.
    with sae_run.splice(
        model, job_of(trained, "skip_transcoder").load(hookpoints="*.self_attn"), record=True
    ) as spliced:
        model.generate(input_ids[:1, :8], max_new_tokens=3, do_sample=False)
    shapes = [encoded.latent_acts.shape[1] for encoded in spliced.latents["layers.1.self_attn"]]
    assert shapes == [8, 1, 1]


def test_with_the_error_only_gradients_change(trained: sae_run.Run, input_ids: Any) -> None:
    model, saes = tiny_llama(), job_of(trained, "topk").load(hookpoints="layers.1")

    def gradient() -> tuple[Any, Any]:
        model.zero_grad()
        logits = model(input_ids[:2]).logits
        logits.logsumexp(-1).sum().backward()
        return logits.detach(), model.base_model.layers[0].mlp.down_proj.weight.grad.clone()

    clean, clean_gradient = gradient()
    with sae_run.splice(model, saes, error=True):
        with_error, gradient_of_latents = gradient()
    assert relative(with_error, clean) < 1e-5
    assert relative(gradient_of_latents, clean_gradient) > 0.1
    with sae_run.splice(model, saes):
        assert relative(gradient()[0], clean) > 0.1


@torch.no_grad()
def test_modules_are_found_by_their_names(trained: sae_run.Run, input_ids: Any) -> None:
    model = tiny_llama()
    (sae,) = job_of(trained, "topk").load(hookpoints="layers.1").values()

    def logits(splice: sae_run.Splice) -> Any:
        with splice:
            return model(input_ids).logits

    expected = logits(sae_run.splice(model, sae))
    for name in ("layers.1", "model.layers.1", "layers.1/seed1", "any name"):
        assert torch.equal(logits(sae_run.splice(model, {name: sae})), expected), name
    assert torch.equal(logits(sae_run.splice(model.base_model, sae)), expected)
    assert not torch.equal(logits(sae_run.splice(model, {"layers.2": sae})), expected)
    sae.hookpoint = "blocks.1.hook_resid_post"
    with pytest.raises(sae_run.SaeRunError, match="the model has no module `blocks.1.hook_resid_post`") as raised:
        sae_run.splice(model, sae)
    assert "sae-run hookpoints" in str(raised.value.hint)
    with pytest.raises(sae_run.SaeRunError, match="`layers.0/seed0` and `layers.0/seed1` are of the same hookpoint"):
        sae_run.splice(model, job_of(trained, "seeds").load())


@torch.no_grad()
def test_an_error_within_leaves_nothing(trained: sae_run.Run, input_ids: Any) -> None:
    model, saes = tiny_llama(), job_of(trained, "topk").load()
    clean = model(input_ids).logits
    with pytest.raises(RuntimeError, match="within"), sae_run.splice(model, saes):
        raise RuntimeError("within")
    assert torch.equal(model(input_ids).logits, clean)


@torch.no_grad()
def test_models_of_16_bit_stay_so(trained: sae_run.Run, input_ids: Any) -> None:
    model = tiny_llama("bfloat16")
    with sae_run.splice(model, job_of(trained, "topk").load()):
        assert model(input_ids).logits.dtype == torch.bfloat16
