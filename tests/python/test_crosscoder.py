"""Crosscoders and cross-layer transcoders: folders that are written here, by hand, from random weights."""

import json
from pathlib import Path
from typing import Any

import pytest

import sae_run

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file  # noqa: E402
from tiny import relative  # noqa: E402

from sae_run import Sae  # noqa: E402

HOOKPOINTS = ["layers.1", "layers.2", "2:layers.1"]
N, D, LATENTS, K = len(HOOKPOINTS), 8, 24, 4
# By `code_normalization_id`, what activations are multiplied by: from the norms of each hookpoint's decoder rows,
# `[N, LATENTS]`.
NORMS = {
    1: lambda norms: norms.sum(0),
    2: lambda norms: norms.square().sum(0).sqrt(),
    3: lambda norms: norms.square().sum(0).sqrt() + 0.1 * norms.sum(0),
    4: lambda norms: torch.ones(LATENTS),
}
# By name, the activation that cfg.json says, and the threshold.
KINDS = {
    "topk": ("topk", -1.0),
    "batchtopk": ("batchtopk", 0.7),
    "jumprelu": ("jumprelu", 0.7),
    "jumprelu, a threshold for each": ("jumprelu", torch.linspace(0.0, 1.4, LATENTS)),
    "jumprelu, not estimated yet": ("jumprelu", -1.0),
    "relu": ("relu", 0.0),
}


def crosscoder_weights(norm: int = 1, threshold: Any = 0.7) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "encoder.weight": torch.randn(N, D, LATENTS) / 4,
        "encoder.bias": torch.randn(LATENTS) / 4,
        # Norms differ by far, between latents and between hookpoints.
        "decoder.weight": torch.randn(N, LATENTS, D) * torch.rand(N, LATENTS, 1),
        "decoder.bias": torch.randn(N, D),
        "code_normalization_id": torch.tensor(norm),
        "k": torch.tensor(K, dtype=torch.int32),
        "threshold": torch.as_tensor(threshold),
    }


def write(folder: Path, weights: dict[str, torch.Tensor], **settings: Any) -> Path:
    """A crosscoder's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = {"d_in": N * D, "num_latents": LATENTS, "k": K, "activation": "topk", "hookpoints": HOOKPOINTS, **settings}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file(weights, folder / "model.safetensors")
    return folder


def load(folder: Path, **options: Any) -> Sae:
    (sae,) = sae_run.load(folder, **options).values()
    return sae


def expected_acts(weights: dict[str, torch.Tensor], x: torch.Tensor, activation: str) -> torch.Tensor:
    """As crosscoder_learning computes them, `[n_tokens, LATENTS]`."""
    acts = torch.einsum("nld,ldf->nf", x, weights["encoder.weight"]) + weights["encoder.bias"]
    acts = acts.clamp_min(0.0)
    if activation == "relu":
        return acts
    norms = weights["decoder.weight"].square().sum(2).sqrt()
    scores = acts * NORMS[int(weights["code_normalization_id"])](norms)
    if activation == "topk":
        least = scores.sort(dim=1, descending=True).values[:, K - 1 : K]
        return acts * (scores >= least)
    return acts * (scores > weights["threshold"])


def expected_out(weights: dict[str, torch.Tensor], acts: torch.Tensor) -> torch.Tensor:
    return torch.einsum("nf,lfd->nld", acts, weights["decoder.weight"]) + weights["decoder.bias"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_crosscoder_computes_what_its_files_say(kind: str, norm: int, tmp_path: Path) -> None:
    activation, threshold = KINDS[kind]
    weights = crosscoder_weights(norm, threshold)
    sae = load(write(tmp_path / "crosscoder", weights, activation=activation))
    x = torch.randn(50, N, D)
    acts = expected_acts(weights, x, activation)
    assert 0 < (acts > 0).sum() < acts.numel()
    with torch.no_grad():
        encoded, dense, out = sae.encode(x), sae.encode(x, dense=True), sae(x)
        assert relative(dense, acts) < 1e-6
        assert dense.bool().equal(acts.bool())
        assert dense.equal(sae.encode(x.flatten(1), dense=True))
        expected = expected_out(weights, acts)
        for decoded in (sae.decode(encoded), sae.decode(*encoded), sae.decode(dense), out.sae_out):
            assert decoded.shape == (50, N, D)
            assert relative(decoded, expected) < 1e-6
        assert relative(sae(x.flatten(1)).sae_out, expected) < 1e-6
    variance = (x - x.mean(0)).square().sum()
    assert out.fvu.item() == pytest.approx(((x - expected).square().sum() / variance).item(), rel=1e-5)


@pytest.mark.parametrize("threshold", [[0.2, 0.7, 1.1], [-1.0, -1.0, -1.0]])
def test_each_hookpoint_of_a_decoupled_crosscoder_has_its_own_latents(threshold: list[float], tmp_path: Path) -> None:
    weights = crosscoder_weights(5, threshold)
    # A latent that writes nothing at a hookpoint is not active there.
    weights["decoder.weight"][0, 0] = 0.0
    sae = load(write(tmp_path / "crosscoder", weights, activation="jumprelu"))
    x = torch.randn(50, N, D)
    # As crosscoder_learning's `encode_decoupled` and `decode`.
    acts = expected_acts(weights, x, "relu")
    scores = acts.unsqueeze(1) * weights["decoder.weight"].norm(dim=2)
    mask = scores > weights["threshold"].clamp_min(0.0).unsqueeze(1)
    expected = torch.einsum("nlf,lfd->nld", acts.unsqueeze(1) * mask, weights["decoder.weight"])
    expected = expected + weights["decoder.bias"]
    if threshold[0] > 0:
        counts = mask.sum((0, 2))
        assert counts[0] > counts[1] > counts[2] > 0
    with torch.no_grad():
        encoded, dense, out = sae.encode(x), sae.encode(x, dense=True), sae(x)
        assert relative(dense, acts * mask.any(1)) < 1e-6
        assert dense.bool().equal((acts * mask.any(1)).bool())
        for decoded in (sae.decode(encoded), sae.decode(*encoded), sae.decode(dense), out.sae_out):
            assert decoded.shape == (50, N, D)
            assert relative(decoded, expected) < 1e-6
        half = load(tmp_path / "crosscoder", dtype="bfloat16")
        assert half(x).sae_out.dtype == torch.bfloat16
        assert relative(half(x).sae_out.float(), expected) < 0.2


def test_norms_decide_which_latents_are_active(tmp_path: Path) -> None:
    x = torch.randn(50, N, D)
    active = {}
    for norm in NORMS:
        sae = load(write(tmp_path / str(norm), crosscoder_weights(norm)))
        active[norm] = sae.encode(x, dense=True).bool()
        assert (active[norm].sum(1) == K).all()
    assert not any(active[1].equal(active[norm]) for norm in (2, 4))


def test_a_crosscoder_says_what_it_is(tmp_path: Path) -> None:
    sae = load(write(tmp_path / "crosscoder", crosscoder_weights(), activation="batchtopk"))
    assert (sae.d_in, sae.d_out, sae.in_shape, sae.out_shape) == (N * D, N * D, (N, D), (N, D))
    assert (sae.cfg.hookpoints, sae.hookpoint) == (tuple(HOOKPOINTS), "layers.1+layers.2+2:layers.1")
    assert (sae.cfg.activation, sae.subtracts_b_dec, sae.num_latents) == ("jumprelu", False, LATENTS)
    with pytest.raises(ValueError, match=r"shape \[5, 8\], expected \[..., 3, 8\]"):
        sae.encode(torch.randn(5, D))


def test_shapes_of_any_number_of_tokens(tmp_path: Path) -> None:
    sae = load(write(tmp_path / "crosscoder", crosscoder_weights()))
    for leading in ((), (0,), (5,), (2, 3)):
        for x in (torch.randn(*leading, N, D), torch.randn(*leading, N * D)):
            encoded = sae.encode(x)
            assert encoded.latent_acts.shape == encoded.latent_indices.shape == (*leading, K)
            assert sae.encode(x, dense=True).shape == (*leading, LATENTS)
            assert sae.decode(encoded).shape == sae(x).sae_out.shape == (*leading, N, D)


def test_crosscoders_are_found_next_to_others(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path / f"crosscoder/seed{seed}", crosscoder_weights())
    write_transcoder(tmp_path / "layers.1.mlp", 2)
    assert [*sae_run.load(tmp_path)] == ["crosscoder/seed0", "crosscoder/seed1", "layers.1.mlp"]
    assert [*sae_run.load(tmp_path, hookpoints="crosscoder/*")] == ["crosscoder/seed0", "crosscoder/seed1"]


def test_a_crosscoder_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    write(tmp_path / "crosscoder", crosscoder_weights())
    files = ["config.json", "model.safetensors", *(f"crosscoder/{name}" for name in ("cfg.json", "model.safetensors"))]
    asked: list[str] = []

    def download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend(sorted(allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "list_repo_files", lambda repo, revision: files)
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert [*sae_run.load("owner/name")] == ["crosscoder"]
    assert asked == ["crosscoder/cfg.json", "crosscoder/model.safetensors"]


def test_weights_are_placed_and_converted(tmp_path: Path) -> None:
    folder = write(tmp_path / "crosscoder", crosscoder_weights(), activation="jumprelu")
    for dtype in ("bfloat16", "float64"):
        sae = load(folder, dtype=dtype)
        assert {weight.dtype for weight in sae.state_dict().values()} == {getattr(torch, dtype)}
        out = sae(torch.randn(2, 3, N, D))
        assert out.sae_out.dtype == out.latent_acts.dtype == getattr(torch, dtype)
        assert out.sae_out.shape == (2, 3, N, D)
    assert {weight.device.type for weight in load(folder, device="meta").state_dict().values()} == {"meta"}


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_gradients_reach_the_weights_and_the_input(activation: str, tmp_path: Path) -> None:
    sae = load(write(tmp_path / "crosscoder", crosscoder_weights(), activation=activation), dtype="float64")
    x = torch.randn(3, N, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sae(x).sae_out, x)
    sae(x).fvu.backward()
    weights = (sae.encoder.weight, sae.encoder.bias, sae.W_dec, sae.b_dec)
    assert all(weight.grad is not None and weight.grad.any() for weight in weights)


def test_nan_shows(tmp_path: Path) -> None:
    sae = load(write(tmp_path / "crosscoder", crosscoder_weights(), activation="jumprelu"))
    assert sae.encode(torch.full((2, N, D), float("nan")), dense=True).isnan().all()


@pytest.mark.parametrize(
    ("settings", "changed", "says"),
    [
        ({"activation": "groupmax"}, {}, "`activation` is 'groupmax'"),
        ({"hookpoints": []}, {}, "it needs `hookpoints`"),
        ({"hookpoints": "layers.1"}, {}, "not a list of names"),
        ({"transcode": True}, {}, "no `transcode`"),
        ({"hookpoints": HOOKPOINTS[:2]}, {}, r"tensor `decoder.weight` of .* has shape \[3, 24, 8\]"),
        ({"d_in": N * D + 1}, {}, "3 hookpoints cannot share 25 outputs"),
        ({}, {"code_normalization_id": torch.tensor(6)}, "`code_normalization_id` is 6"),
        ({}, {"code_normalization_id": torch.tensor(5)}, "`code_normalization_id` 5 a crosscoder has thresholds"),
        (
            {"activation": "jumprelu"},
            {"code_normalization_id": torch.tensor(5)},
            r"tensor `threshold` of .* has shape \[\], expected \[3\]",
        ),
        ({}, {"encoder.weight": torch.zeros(N, LATENTS, D)}, r"expected \[3, 8, 24\]"),
        ({"activation": "jumprelu"}, {"threshold": torch.zeros(3)}, r"shape \[3\], expected \[24\] or \[\]"),
    ],
)
def test_damage_is_said(settings: dict[str, Any], changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "crosscoder", {**crosscoder_weights(), **changed}, **settings)
    with pytest.raises(sae_run.SaeRunError, match=says):
        sae_run.load(folder)


def write_transcoder(folder: Path, n: int, **settings: Any) -> dict[str, torch.Tensor]:
    """A cross-layer transcoder that writes to `n` hookpoints, in sparsify's layout; gives its weights."""
    folder.mkdir(parents=True)
    shapes = {"encoder.weight": (LATENTS, D), "encoder.bias": (LATENTS,), "W_dec": (LATENTS, n * D), "b_dec": (n * D,)}
    if settings.get("skip_connection"):
        shapes["W_skip"] = (n * D, D)
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    hookpoints = [f"layers.{1 + idx}.mlp" for idx in range(n)]
    cfg = {"d_in": D, "d_out": n * D, "num_latents": LATENTS, "k": K, "transcode": True, "hookpoints": hookpoints}
    (folder / "cfg.json").write_text(json.dumps({**cfg, **settings}))
    save_file(weights, folder / "sae.safetensors")
    return weights


@pytest.mark.parametrize("skip_connection", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_cross_layer_transcoder_gives_the_outputs_of_all(n: int, skip_connection: bool, tmp_path: Path) -> None:
    weights = write_transcoder(tmp_path / "layers.1.mlp", n, skip_connection=skip_connection)
    sae = load(tmp_path / "layers.1.mlp")
    assert (sae.in_shape, sae.out_shape, sae.hookpoint) == ((D,), (n, D), "layers.1.mlp")
    x, y = torch.randn(20, D), torch.randn(20, n, D)
    with torch.no_grad():
        dense, out = sae.encode(x, dense=True), sae(x, y)
        expected = (dense @ weights["W_dec"] + weights["b_dec"]).view(20, n, D)
        assert relative(sae.decode(dense), expected) < 1e-6
        assert relative(sae.decode(sae.encode(x)), expected) < 1e-6
    for idx in range(n) if skip_connection else ():
        expected[:, idx] += x @ weights["W_skip"][idx * D : (idx + 1) * D].mT
    assert relative(out.sae_out, expected) < 1e-6
    variance = (y - y.mean(0)).square().sum()
    assert out.fvu.item() == pytest.approx(((y - expected).square().sum() / variance).item(), rel=1e-5)


def test_a_cross_layer_transcoder_in_the_layout_of_saelens(tmp_path: Path) -> None:
    shapes = {"W_enc": (D, LATENTS), "b_enc": (LATENTS,), "W_dec": (LATENTS, 2 * D), "b_dec": (2 * D,)}
    weights = {name: torch.randn(shape) for name, shape in shapes.items()} | {"threshold": torch.rand(LATENTS)}
    hookpoints = ["layers.1.mlp", "layers.2.mlp"]
    cfg = {"architecture": "jumprelu_transcoder", "d_in": D, "d_out": 2 * D, "d_sae": LATENTS, "hookpoints": hookpoints}
    save_file(weights, tmp_path / "sae_weights.safetensors")
    x = torch.randn(20, D)
    pre_acts = x @ weights["W_enc"] + weights["b_enc"]
    expected = (pre_acts * (pre_acts > weights["threshold"])) @ weights["W_dec"] + weights["b_dec"]
    of_metadata = {key: value for key, value in cfg.items() if key != "hookpoints"}
    for settings in (cfg, {**of_metadata, "metadata": {"hookpoints": hookpoints}}):
        (tmp_path / "cfg.json").write_text(json.dumps(settings))
        sae = load(tmp_path)
        assert sae.cfg.hookpoints == ("layers.1.mlp", "layers.2.mlp")
        assert relative(sae.decode(sae.encode(x)), expected.view(20, 2, D)) < 1e-6


def test_a_width_that_hookpoints_cannot_share(tmp_path: Path) -> None:
    write_transcoder(tmp_path / "layers.1.mlp", 2, hookpoints=["a", "b", "c"])
    with pytest.raises(sae_run.SaeRunError, match="3 hookpoints cannot share 16 outputs"):
        sae_run.load(tmp_path)


def test_no_other_library_holds_them_and_no_module_is_theirs(tmp_path: Path) -> None:
    write(tmp_path / "crosscoder", crosscoder_weights())
    write_transcoder(tmp_path / "layers.1.mlp", 2)
    for name, kind in (("crosscoder", "a crosscoder"), ("layers.1.mlp", "a cross-layer transcoder")):
        sae = load(tmp_path / name)
        with pytest.raises(sae_run.SaeRunError, match=f"`{name}` cannot be spliced"):
            sae_run.splice(torch.nn.Linear(2, 2), {name: sae})
        for module, convert in (("sparsify", sae.to_sparsify), ("sae_lens", sae.to_saelens)):
            pytest.importorskip(module)
            with pytest.raises(sae_run.SaeRunError, match=f"does not support {kind}"):
                convert()
