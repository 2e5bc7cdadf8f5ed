"""SAEs as modules: the same numbers as the worker, sparsify and SAELens."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import FIXTURES, KINDS, MODEL, TEXTS, job_of, texts

import sae_run

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny import activations, relative, tiny_llama, tokens_of  # noqa: E402

from sae_run import Encoded, Sae, SaeConfig  # noqa: E402

SAELENS = FIXTURES / "saelens"
# Checkpoints of SAELens's training, which it makes JumpReLU SAEs of.
OF_BATCHES = {"batchtopk", "matryoshka_batchtopk"}


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def folder_of(trained: sae_run.Run, name: str) -> Path:
    assert trained.runs_dir is not None
    return trained.runs_dir / job_of(trained, name).show()["dir"]


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_those_of_the_program(kind: str, trained: sae_run.Run) -> None:
    pytest.importorskip("transformers")
    job = job_of(trained, kind)
    rows = sae_run.encode(texts(20), job, device="cpu")
    model = tiny_llama(kind)
    saes = job.load()
    assert set(rows.sae) == {*saes}
    for name, sae in saes.items():
        of_program, of_module = [], []
        for _, of_text in rows[rows.sae == name].groupby("sequence"):
            token_ids = of_text.drop_duplicates("position").token_id.tolist()
            x, _ = activations(model, sae, torch.tensor([token_ids]))
            dense = sae.encode(x[0], dense=True)
            theirs = torch.zeros_like(dense)
            at = (torch.tensor(of_text.position.tolist()), torch.tensor(of_text.latent.tolist()))
            theirs[at] = torch.tensor(of_text.activation.tolist())
            of_program.append(theirs)
            of_module.append(dense)
        difference = relative(torch.cat(of_module), torch.cat(of_program))
        # A model in 16 bit rounds otherwise than transformers', and then now and then another latent is the k-th.
        assert difference < (1e-6 if kind != "bfloat16" else 0.2), name


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_those_of_the_evaluation(kind: str, trained: sae_run.Run, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    job = job_of(trained, kind)
    evaluations = job.evaluations().set_index("sae")
    model, input_ids = tiny_llama(kind), tokens_of(MODEL, TEXTS, tmp_path)
    tolerance = 1e-6 if kind != "bfloat16" else 5e-3
    for name, sae in job.load().items():
        x, y = activations(model, sae, input_ids)
        reconstruction = sae(x, y)
        evaluation = evaluations.loc[name]
        assert reconstruction.fvu.item() == pytest.approx(evaluation.fvu, rel=tolerance)
        l0 = (reconstruction.latent_acts > 0).sum(-1).double().mean().item()
        assert l0 == pytest.approx(evaluation.l0, rel=tolerance)
        assert reconstruction.sae_out.shape == y.shape
        decoded = sae.decode(sae.encode(x))
        assert relative(sae.decode(sae.encode(x, dense=True)), decoded) < 1e-6
        assert (sae.W_skip is None) == torch.equal(decoded, reconstruction.sae_out)


def test_saes_are_found_by_job_folder_and_pattern(trained: sae_run.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(trained, "seeds")
    names = [f"layers.{layer}/seed{seed}" for layer in range(3) for seed in range(2)]
    folder = folder_of(trained, "seeds")
    assert [*sae_run.load(job)] == [*sae_run.load(folder)] == [*sae_run.load(str(folder))] == names
    assert [*sae_run.load("seeds", runs_dir=trained.runs_dir)] == names
    assert [*sae_run.load(job.job_id[:8], runs_dir=trained.runs_dir)] == names
    assert [*job.load(hookpoints="*.1/*")] == names[2:4]
    assert [*sae_run.load(folder / "layers.1")] == names[2:4]
    (name, sae), *others = sae_run.load(folder / "layers.1/seed1").items()
    assert (name, sae.hookpoint, others) == ("layers.1/seed1", "layers.1", [])
    with pytest.raises(sae_run.SaeRunError, match="no SAE in `.*` matches `layers.7`") as raised:
        job.load(hookpoints=["layers.1/seed0", "layers.7"])
    assert "`layers.0/seed0`" in str(raised.value.hint)
    with pytest.raises(sae_run.SaeRunError, match="no job has the id or name `nonsense`") as raised:
        sae_run.load("nonsense", runs_dir=trained.runs_dir)
    assert raised.value.exit_code == 2
    # Relative to the current folder, as the program has it.
    assert trained.runs_dir is not None
    monkeypatch.chdir(trained.runs_dir.parent)
    assert [*sae_run.load("seeds")] == names


def test_the_order_is_natural(tmp_path: Path) -> None:
    for name in ("layers.10", "layers.2", "layers.1.mlp", "h"):
        shutil.copytree(SAELENS / "topk", tmp_path / name)
    (tmp_path / "plots").mkdir()
    assert [*sae_run.load(tmp_path)] == ["h", "layers.1.mlp", "layers.2", "layers.10"]
    with pytest.raises(sae_run.SaeRunError, match="there is no SAE in"):
        sae_run.load(tmp_path / "plots")


def test_a_job_without_checkpoint(workspace: Path) -> None:
    # It fails at the second update.
    with pytest.raises(sae_run.SaeRunError):
        sae_run.run("tiny.toml", {"train.lr": 1e30}, progress=False)
    with pytest.raises(sae_run.SaeRunError, match="has no checkpoint yet"):
        sae_run.load(sae_run.results().job[0])


def test_weights_are_placed_and_converted(trained: sae_run.Run) -> None:
    job = job_of(trained, "skip_transcoder")
    for dtype in ("bfloat16", torch.float16, "float64"):
        sae = job.load(dtype=dtype, device=torch.device("cpu"))["layers.0.mlp"]
        expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        assert {weight.dtype for weight in sae.parameters()} == {expected} == {sae.dtype}
        # Whatever `x` is.
        out = sae(torch.randn(2, 3, 32))
        assert out.sae_out.dtype == out.latent_acts.dtype == expected
        assert out.sae_out.shape == (2, 3, 32)
        assert out.fvu.dtype == torch.float32
    assert job.load(device="meta")["layers.0.mlp"].device.type == "meta"
    names = {"encoder.weight", "encoder.bias", "W_dec", "b_dec", "W_skip"}
    assert {*sae.state_dict()} == names
    assert (sae.d_in, sae.d_out, sae.num_latents, sae.cfg.k) == (32, 32, 128, 4)


def test_shapes_of_any_number_of_tokens(trained: sae_run.Run) -> None:
    for kind in ("topk", "groupmax"):
        (sae, *_) = job_of(trained, kind).load().values()
        x = torch.randn(5, 3, 32)
        encoded = sae.encode(x)
        assert encoded.latent_acts.shape == encoded.latent_indices.shape == (5, 3, 4)
        assert sae.encode(x[0, 0]).latent_acts.shape == (4,)
        assert sae.encode(x[:0]).latent_acts.shape == (0, 3, 4)
        assert sae.encode(x[:0], dense=True).shape == (0, 3, 128)
        assert sae.decode(*encoded).equal(sae.decode(encoded))
        with pytest.raises(ValueError, match="expected \\[..., 32\\]"):
            sae.encode(torch.randn(4, 31))


def test_blocks_of_tokens_make_no_difference(trained: sae_run.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("topk", "groupmax"):
        (sae, *_) = job_of(trained, kind).load().values()
        x = torch.randn(50, 32)
        whole = sae.encode(x, dense=True)
        monkeypatch.setattr("sae_run._sae._PRE_ACTS_BYTES", 7 * 128 * 4)
        assert relative(sae.encode(x, dense=True), whole) < 1e-6


def test_gradients_reach_all_weights_and_the_input() -> None:
    torch.manual_seed(0)
    cfg = SaeConfig(d_in=4, num_latents=6, k=2, skip_connection=True)
    shapes = {"encoder.weight": (6, 4), "encoder.bias": (6,), "W_dec": (6, 4), "b_dec": (4,), "W_skip": (4, 4)}
    sae = Sae(cfg, {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()})
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        assert torch.autograd.gradcheck(lambda x: sae(x).sae_out, x)
        sae(x).fvu.backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in sae.parameters())


def test_nan_shows() -> None:
    (sae,) = sae_run.load(SAELENS / "jumprelu").values()
    x = torch.full((2, sae.d_in), float("nan"))
    assert sae.encode(x, dense=True).isnan().all()


@pytest.mark.parametrize("name", sorted(path.name for path in SAELENS.iterdir() if path.is_dir()))
def test_saelens_layout_is_read(name: str) -> None:
    expected = load_file(SAELENS / "expected.safetensors")
    (sae,) = sae_run.load(SAELENS / name).values()
    tolerance = 1e-6 if name != "standard_bfloat16" else 1e-2
    assert relative(sae.encode(expected["x"], dense=True).float(), expected[f"{name}/acts"]) < tolerance
    assert relative(sae(expected["x"], expected[f"{name}/out"]).sae_out.float(), expected[f"{name}/out"]) < tolerance
    assert sae.hookpoint == (name if name in OF_BATCHES else "blocks.1.hook_resid_post")


@pytest.mark.parametrize("name", sorted(path.name for path in SAELENS.iterdir() if path.is_dir()))
def test_an_sae_of_saelens_is_given_back(name: str) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    (sae,) = sae_run.load(SAELENS / name).values()
    theirs = sae.to_saelens()
    assert isinstance(theirs, sae_lens.SAE)
    x = torch.randn(20, sae.d_in).to(sae.dtype)
    tolerance = 1e-6 if name != "standard_bfloat16" else 1e-2
    assert relative(theirs.encode(x).float(), sae.encode(x, dense=True).float()) < tolerance
    assert relative(theirs(x).float(), sae(x, torch.zeros(20, sae.d_out)).sae_out.float()) < tolerance
    if name not in OF_BATCHES:
        read = sae_lens.SAE.load_from_disk(SAELENS / name)
        assert relative(read(x).float(), theirs(x).float()) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_trained_saes_are_those_of_saelens(kind: str, trained: sae_run.Run) -> None:
    pytest.importorskip("sae_lens")
    settings = KINDS[kind]
    for name, sae in job_of(trained, kind).load().items():
        if settings.keys() & {"activation", "transcode", "skip_connection"}:
            with pytest.raises(sae_run.SaeRunError, match="SAELens does not support"):
                sae.to_saelens()
            continue
        theirs = sae.to_saelens()
        x = sae.b_dec + 3 * torch.randn(64, 32)
        assert theirs.cfg.metadata.hf_hook_name == sae.hookpoint, name
        assert relative(theirs.encode(x), sae.encode(x, dense=True)) < 1e-6
        assert relative(theirs(x), sae(x).sae_out) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_trained_saes_are_those_of_sparsify(kind: str, dtype: "torch.dtype", trained: sae_run.Run) -> None:
    sparsify = pytest.importorskip("sparsify")
    folder = folder_of(trained, kind)
    shelves = [folder] if kind != "seeds" else [folder / f"layers.{layer}" for layer in range(3)]
    for shelf in shelves:
        theirs = {name: sae.to(dtype) for name, sae in sparsify.Sae.load_many(str(shelf), local=True).items()}
        ours = sae_run.load(shelf, dtype=dtype)
        assert [name.split("/")[-1] for name in ours] == [*theirs]
        for sae, other in zip(ours.values(), theirs.values(), strict=True):
            x = (3 * torch.randn(64, 32)).to(dtype)
            acts, indices, _ = other.encode(x)
            encoded = sae.encode(x)
            assert relative(sae.densified(Encoded(acts, indices)).float(), sae.encode(x, dense=True).float()) < 1e-6
            assert relative(other.decode(*encoded).float(), sae.decode(encoded).float()) < 1e-6
            # With Multi-TopK, sparsify's `forward` gives the output of four times the latents.
            other.cfg = replace(other.cfg, multi_topk=False)
            expected = other(x)
            assert relative(expected.sae_out.float(), sae(x).sae_out.float()) < 1e-6
            converted = sae.to_sparsify()
            cfg = replace(other.cfg, num_latents=sae.num_latents, multi_topk=kind == "multi_topk")
            assert converted.cfg == cfg
            assert all(map(torch.equal, converted.state_dict().values(), other.state_dict().values()))
            if dtype == torch.float32:
                assert sae(x).fvu.item() == pytest.approx(expected.fvu.item(), rel=1e-5)


def test_what_sparsify_cannot_hold() -> None:
    pytest.importorskip("sparsify")
    for name in ("standard", "jumprelu_transcoder", "gated"):
        (sae,) = sae_run.load(SAELENS / name).values()
        with pytest.raises(sae_run.SaeRunError, match="sparsify does not support"):
            sae.to_sparsify()


def test_a_transcoder_of_two_widths(tmp_path: Path) -> None:
    cfg = {"d_in": 4, "d_out": 3, "num_latents": 0, "expansion_factor": 2, "k": 2, "transcode": True, "unknown": 1}
    weights = {"encoder.weight": (8, 4), "encoder.bias": (8,), "W_dec": (8, 3), "b_dec": (3,)}
    save_file({name: torch.randn(shape) for name, shape in weights.items()}, tmp_path / "sae.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    (sae,) = sae_run.load(tmp_path).values()
    assert sae(torch.randn(5, 4), torch.randn(5, 3)).sae_out.shape == (5, 3)
    pytest.importorskip("sparsify")
    with pytest.raises(sae_run.SaeRunError, match="two widths"):
        sae.to_sparsify()


def test_damage_is_said(tmp_path: Path, trained: sae_run.Run) -> None:
    folder = tmp_path / "layers.1"
    shutil.copytree(folder_of(trained, "groupmax") / "layers.1", folder)
    weights = load_file(folder / "sae.safetensors")
    save_file({**weights, "b_dec": torch.zeros(31)}, folder / "sae.safetensors")
    with pytest.raises(sae_run.SaeRunError, match=r"tensor `b_dec` of .* has shape \[31\], expected \[32\]"):
        sae_run.load(folder)
    weights.pop("b_dec")
    save_file(weights, folder / "sae.safetensors")
    with pytest.raises(sae_run.SaeRunError, match="has no tensor `b_dec`"):
        sae_run.load(folder)
    (folder / "sae.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(sae_run.SaeRunError, match="cannot read `"):
        sae_run.load(folder)
    (folder / "cfg.json").write_text("{}")
    with pytest.raises(sae_run.SaeRunError, match="it has no `d_in`"):
        sae_run.load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architecture", "matching_pursuit"),
        ("activation_fn", "tanh-relu"),
        ("normalize_activations", "layer_norm"),
        ("k", 2.5),
        ("k", None),
    ],
)
def test_other_kinds_of_saelens_are_refused_by_key(key: str, value: object, tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    shutil.copytree(SAELENS / "topk", folder)
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**cfg, key: value}))
    with pytest.raises(sae_run.SaeRunError, match=f"`{key}` is "):
        sae_run.load(folder)


def test_repositories_are_downloaded_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    for name in ("layers.10", "layers.2", "nested/layers.3"):
        shutil.copytree(SAELENS / "topk", tmp_path / name)
    # The same SAE in another layout.
    shutil.copytree(SAELENS / "topk", tmp_path / "layers.2/saelens")
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    asked = []

    def download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision, sorted(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(hub, "list_repo_files", lambda repo, revision: files)
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert [*sae_run.load("owner/name")] == ["layers.2", "layers.10", "nested/layers.3"]
    assert [*sae_run.load("owner/name", hookpoints="*.2", revision="v1")] == ["layers.2"]
    assert asked[1] == ("owner/name", "v1", ["layers.2/cfg.json", "layers.2/sae_weights.safetensors"])
    files[:] = ["cfg.json", "sae_weights.safetensors"]
    shutil.copytree(SAELENS / "topk", tmp_path, dirs_exist_ok=True)
    assert [*sae_run.load("owner/name")] == ["name"]
    files[:] = ["README.md"]
    with pytest.raises(sae_run.SaeRunError, match="there is no SAE in `owner/name`"):
        sae_run.load("owner/name")
