//! Numerics on the tiny model.

mod several;

use super::*;
use datasets::find_files;
use fault::Remedy;
use lm::{LanguageModel, LoadOptions, Replacements, Taps};
use plan::RowSpec;
use plan::{DatasetRequest, Dtype, TrainConfig};
use sae::{SaeConfig, tensors_by_name};
use std::path::PathBuf;
use tempfile::TempDir;
use tokens::{TokenSpec, Tokens};

const HOOKPOINT: &str = "layers.2";
const CTX_LEN: i64 = 64;
const D: i64 = 32;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// SAEs in a folder, and what they are evaluated on.
struct Bench {
    dir: TempDir,
    tokens: Tokens,
    saes: Vec<EvalSae>,
    /// The second model.
    second: Option<PathBuf>,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let config = TrainConfig {
            ctx_len: CTX_LEN as usize,
            ..TrainConfig::default()
        };
        let request = DatasetRequest::default();
        let spec = TokenSpec {
            files: find_files(&fixtures().join("tiny.jsonl"), &request).unwrap(),
            rows: RowSpec::of(&config, 300),
            tokenizer_dir: fixtures().join("tiny-llama"),
            vocab_size: 300,
        };
        let go_on = &mut |_| ControlFlow::Continue(());
        let tokens = Tokens::open_or_build(&spec, dir.path(), go_on).unwrap();
        Self {
            dir,
            tokens,
            saes: Vec::new(),
            second: None,
        }
    }

    fn sequences(&self) -> EvalSequences {
        EvalSequences::all(self.tokens.clone()).at_most(7)
    }

    /// `[7, CTX_LEN]`.
    fn input_ids(&self) -> Tensor {
        let ids: Vec<i64> = self.sequences().batches(100).flatten().collect();
        Tensor::from_slice(&ids).view([-1, CTX_LEN])
    }

    fn add(&mut self, name: &str, sae: &Sae, exclude_tokens: &[u32]) {
        self.add_at(HOOKPOINT, name, sae, exclude_tokens);
    }

    fn add_at(&mut self, hookpoint: &str, name: &str, sae: &Sae, exclude_tokens: &[u32]) {
        let dir = self.dir.path().join(name);
        sae.save_to_disk(&dir).unwrap();
        self.saes.push(EvalSae {
            name: name.into(),
            hookpoint: hookpoint.into(),
            dir,
            exclude_tokens: exclude_tokens.to_vec(),
            density: Some(self.dir.path().join(format!("eval/{name}.safetensors"))),
        });
    }

    fn request(&self, batch_size: usize) -> EvalRequest {
        EvalRequest {
            model: ModelUse {
                dir: fixtures().join("tiny-llama"),
                second: self.second.clone(),
                dtype: Dtype::Float32,
                load_in_8bit: false,
                device: "cpu".into(),
            },
            sequences: self.sequences(),
            batch_size,
            saes: self.saes.clone(),
        }
    }

    fn run(&self, batch_size: usize) -> Vec<EvalStats> {
        let go_on = &mut |_, _| ControlFlow::Continue(());
        let evaluated = evaluate(&self.request(batch_size), go_on).unwrap();
        let evaluated = evaluated.unwrap().into_iter();
        evaluated.map(|evaluated| evaluated.stats).collect()
    }
}

fn model() -> LanguageModel {
    let options = LoadOptions {
        with_head: true,
        ..LoadOptions::default()
    };
    LanguageModel::load(&fixtures().join("tiny-llama"), &options).unwrap()
}

/// Splits every dimension into its positive and its negative part, and puts them together again.
fn perfect() -> Sae {
    let mut sae = Sae::new(SaeConfig::topk(32, 64, 64), 0, Device::Cpu).unwrap();
    let eye = Tensor::eye(D, (Kind::Float, Device::Cpu));
    let both = Tensor::cat(&[&eye, &(-&eye)], 0);
    sae.encoder_weight = both.copy();
    sae.w_dec = both;
    sae
}

fn random(seed: i64) -> Sae {
    Sae::new(SaeConfig::topk(32, 96, 6), seed, Device::Cpu).unwrap()
}

/// An SAE that always gives `mean`.
fn constant(mean: &Tensor) -> Sae {
    let mut sae = random(1);
    sae.w_dec = sae.w_dec.zeros_like();
    sae.b_dec = mean.to_kind(Kind::Float);
    sae
}

/// Outputs of the hookpoint at the tokens that `keep` picks: `[n_tokens, D]`.
fn outputs(model: &LanguageModel, input_ids: &Tensor, keep: &Tensor) -> Tensor {
    let taps = Taps::new(model.facts(), &[HOOKPOINT]).unwrap();
    let activations = model.forward(input_ids, &taps).unwrap();
    let y = activations.get(HOOKPOINT).unwrap().reshape([-1, D]);
    y.index_select(0, &keep.flatten(0, -1).nonzero().squeeze_dim(1))
}

fn square(x: &Tensor) -> f64 {
    x.to_kind(Kind::Double)
        .square()
        .sum(Kind::Double)
        .double_value(&[])
}

/// Whatever ablation costs: by random weights a model may predict better without an output.
fn recovered(stats: &EvalStats) -> f64 {
    (stats.ce_ablated - stats.ce_spliced) / (stats.ce_ablated - stats.ce_clean)
}

fn close(what: &str, got: f64, expected: f64, tolerance: f64) {
    let off = (got - expected).abs();
    assert!(off <= tolerance, "{what}: {got}, expected {expected}");
}

fn agree(a: &EvalStats, b: &EvalStats, tolerance: f64) {
    let counts = |stats: &EvalStats| (stats.n_tokens, stats.n_dead, stats.n_predicted, stats.l0);
    assert_eq!(counts(a), counts(b));
    let sums = |stats: &EvalStats| {
        let EvalStats {
            squared_error,
            total_variance,
            ce_clean,
            ce_spliced,
            ce_ablated,
            kl,
            ..
        } = *stats;
        [
            squared_error,
            total_variance,
            ce_clean,
            ce_spliced,
            ce_ablated,
            kl,
        ]
    };
    for (index, (a, b)) in sums(a).into_iter().zip(sums(b)).enumerate() {
        close(&format!("sum {index}"), a, b, tolerance * b.abs());
    }
}

/// The same by the letter of the definitions, in double precision and one sequence at a time.
fn naive(bench: &Bench, sae: &Sae, exclude: &[i64]) -> EvalStats {
    let model = model();
    let input_ids = bench.input_ids();
    let mut keep = input_ids.ones_like();
    for token in exclude {
        keep = keep.masked_fill(&input_ids.eq(*token), 0);
    }
    let y = outputs(&model, &input_ids, &keep);
    let mean = y.mean_dim(0, true, Kind::Double);
    let out = sae.forward(&y).unwrap();
    let fired = out.encoded.latent_acts.gt(0.0);
    let mut counts = vec![0u64; sae.num_latents()];
    for (index, fired) in Vec::<i64>::try_from(out.encoded.latent_indices.flatten(0, -1))
        .unwrap()
        .into_iter()
        .zip(Vec::<bool>::try_from(fired.flatten(0, -1)).unwrap())
    {
        counts[index as usize] += u64::from(fired);
    }
    let mut stats = EvalStats {
        n_tokens: y.size()[0] as u64,
        squared_error: square(&(&out.sae_out - &y)),
        total_variance: square(&(y.to_kind(Kind::Double) - &mean)),
        l0: counts.iter().sum::<u64>() as f64,
        n_dead: counts.iter().filter(|count| **count == 0).count() as u64,
        ..EvalStats::default()
    };
    for (ids, keep) in input_ids.split(1, 0).iter().zip(keep.split(1, 0)) {
        add_predictions(&mut stats, &model, ids, &keep, sae, &mean);
    }
    stats
}

/// `ids` and `keep`: `[1, CTX_LEN]`.
fn add_predictions(
    stats: &mut EvalStats,
    model: &LanguageModel,
    ids: &Tensor,
    keep: &Tensor,
    sae: &Sae,
    mean: &Tensor,
) {
    let with = |replace: &dyn Fn(&Tensor) -> Tensor| {
        let mut replacements = Replacements::default();
        let put = |pass: lm::ModulePass| {
            let replaced = replace(&pass.output.reshape([-1, D])).view_as(pass.output);
            Ok(replaced.where_self(&keep.unsqueeze(-1).gt(0), pass.output))
        };
        replacements.add(model.facts(), HOOKPOINT, put).unwrap();
        let logits = model.logits_with(ids, &mut replacements).unwrap();
        logits.get(0).log_softmax(-1, Kind::Double)
    };
    let clean = with(&Tensor::copy);
    let spliced = with(&|y| sae.forward(y).unwrap().sae_out);
    let ablated = with(&|y| mean.to_kind(Kind::Float).expand_as(y).contiguous());
    for position in 0..CTX_LEN - 1 {
        if keep.int64_value(&[0, position]) == 0 {
            continue;
        }
        let next = ids.int64_value(&[0, position + 1]);
        let ce = |log_probs: &Tensor| -log_probs.double_value(&[position, next]);
        stats.n_predicted += 1;
        stats.ce_clean += ce(&clean);
        stats.ce_spliced += ce(&spliced);
        stats.ce_ablated += ce(&ablated);
        let (p, q) = (clean.get(position), spliced.get(position));
        let kl: Tensor = p.exp() * (&p - &q);
        stats.kl += kl.sum(Kind::Double).double_value(&[]);
    }
}

#[test]
fn a_perfect_reconstruction_costs_nothing() {
    let mut bench = Bench::new();
    bench.add("perfect", &perfect(), &[]);
    let stats = bench.run(3)[0];
    assert_eq!(stats.n_tokens, 7 * 64);
    assert_eq!(stats.n_predicted, 7 * 63);
    close("FVU", stats.fvu(), 0.0, 1e-10);
    close(
        "CE",
        stats.ce_spliced,
        stats.ce_clean,
        1e-5 * stats.ce_clean,
    );
    close("KL", stats.mean_kl(), 0.0, 1e-6);
    close("recovered", recovered(&stats), 1.0, 1e-4);
    close("L0", stats.mean_l0(), 32.0, 0.01);
    // The model's weights are random: without its output it may predict better.
    let cost = (stats.ce_ablated - stats.ce_clean).abs();
    assert!(cost > 0.001 * stats.ce_clean, "{stats:?}");
}

/// A linear module is its own best transcoder: a skip connection with its weights, and no latent.
#[test]
fn a_transcoder_is_given_the_input_and_stands_for_the_output() {
    let hookpoint = "layers.2.mlp.down_proj";
    let weights = tensors_by_name(&fixtures().join("tiny-llama/model.safetensors")).unwrap();
    let cfg = SaeConfig {
        transcode: true,
        skip_connection: true,
        d_out: Some(32),
        ..SaeConfig::topk(64, 96, 6)
    };
    let idle = Sae::new(cfg, 0, Device::Cpu).unwrap();
    let mut own = idle.with_weights(idle.named_weights().iter().map(|(_, w)| w.copy()).collect());
    own.w_skip = Some(weights[&format!("model.{hookpoint}.weight")].copy());
    let mut bench = Bench::new();
    bench.add_at(hookpoint, "own", &own, &[]);
    bench.add_at(hookpoint, "idle", &idle, &[]);
    let [own, idle] = bench.run(3)[..] else {
        panic!("two SAEs")
    };
    close("FVU", own.fvu(), 0.0, 1e-10);
    close("CE", own.ce_spliced, own.ce_clean, 1e-5 * own.ce_clean);
    close("KL", own.mean_kl(), 0.0, 1e-6);
    assert!(idle.fvu() >= 1.0 && idle.mean_kl() > 1e-4, "{idle:?}");
}

#[test]
fn an_sae_that_gives_the_mean_is_the_ablation() {
    for exclude in [&[][..], &[14, 200]] {
        let mut bench = Bench::new();
        let input_ids = bench.input_ids();
        let mut keep = input_ids.ones_like();
        for token in exclude {
            keep = keep.masked_fill(&input_ids.eq(i64::from(*token)), 0);
        }
        let y = outputs(&model(), &input_ids, &keep);
        let mean = y.mean_dim(0, false, Kind::Double);
        bench.add("mean", &constant(&mean), exclude);
        let stats = bench.run(4)[0];
        close("FVU", stats.fvu(), 1.0, 1e-5);
        close("recovered", recovered(&stats), 0.0, 1e-4);
        assert!(stats.mean_kl() > 0.01, "{stats:?}");
    }
}

#[test]
fn sums_are_those_of_the_definitions() {
    let mut bench = Bench::new();
    let excluded: Vec<i64> = vec![bench.input_ids().int64_value(&[0, 1]), 0, 14];
    let as_setting: Vec<u32> = excluded.iter().map(|token| *token as u32).collect();
    bench.add("a", &random(1), &[]);
    bench.add("b", &random(2), &as_setting);
    bench.add("c", &random(3), &[]);
    let stats = bench.run(3);
    let expected = [
        naive(&bench, &random(1), &[]),
        naive(&bench, &random(2), &excluded),
        naive(&bench, &random(3), &[]),
    ];
    assert!(stats[1].n_tokens < stats[0].n_tokens);
    for (stats, expected) in stats.iter().zip(&expected) {
        agree(stats, expected, 1e-5);
    }
}

#[test]
fn the_size_of_a_batch_does_not_matter() {
    let mut bench = Bench::new();
    bench.add("all", &random(1), &[]);
    bench.add("some", &random(1), &[0, 14, 200]);
    bench.add_at("layers.0.mlp", "elsewhere", &random(2), &[]);
    let whole = bench.run(100);
    for batch_size in [1, 4] {
        for (stats, whole) in bench.run(batch_size).iter().zip(&whole) {
            agree(stats, whole, 1e-5);
        }
    }
}

#[test]
fn tokens_that_are_all_excluded_are_told() {
    let mut bench = Bench::new();
    let all: Vec<u32> = (0..300).collect();
    bench.add("none", &random(1), &all);
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let error = evaluate(&bench.request(3), go_on).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("no token of the sequences counts"),
        "{error}"
    );
}

#[test]
fn the_firing_density_is_the_share_of_tokens() {
    let mut bench = Bench::new();
    bench.add("layers.2/seed1", &random(1), &[]);
    let stats = bench.run(3)[0];
    let path = bench.saes[0].density.clone().unwrap();
    let density = &tensors_by_name(&path).unwrap()[FIRING_DENSITY];
    assert_eq!((density.size(), density.kind()), (vec![96], Kind::Float));
    let l0 = density.sum(Kind::Double).double_value(&[]);
    close("sum of densities", l0, stats.mean_l0(), 1e-4);
    let n_silent = density.eq(0.0).sum(Kind::Int64).int64_value(&[]);
    assert_eq!(n_silent as u64, stats.n_dead);
}

#[test]
fn hookpoints_with_other_shapes_are_flattened() {
    // Gemma 3's norm of heads has a dimension of heads, GPT-2's position embedding has no dimension of sequences.
    for (family, hookpoint) in [("gemma3_text", "q_norm"), ("gpt2", "wpe")] {
        let model_dir = fixtures().join("families").join(family);
        let facts = facts::read_facts(&model_dir).unwrap();
        let names = facts.hookpoints.iter();
        let found = names
            .into_iter()
            .find(|known| known.name.ends_with(hookpoint));
        let hookpoint = found.unwrap();
        let width = hookpoint.d_out as i64;
        let mut bench = Bench::new();
        let cfg = SaeConfig::topk(hookpoint.d_out, 2 * hookpoint.d_out, 2 * hookpoint.d_out);
        let mut sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
        let eye = Tensor::eye(width, (Kind::Float, Device::Cpu));
        sae.encoder_weight = Tensor::cat(&[&eye, &(-&eye)], 0);
        sae.w_dec = sae.encoder_weight.copy();
        bench.add_at(&hookpoint.name, "perfect", &sae, &[]);
        let input_ids: Vec<i64> = (0..24).map(|id| id % facts.vocab_size as i64).collect();
        let of_family = ModelUse {
            dir: model_dir.clone(),
            ..bench.request(1).model
        };
        let models = Models::load(&of_family, None, Device::Cpu).unwrap();
        let batch = batch::Batch::new(&input_ids, 12, &[vec![]], Device::Cpu).unwrap();
        let mut sums = sums::SaeSums::new(&sae).unwrap();
        let splice = |_: usize, pass: lm::ModulePass| {
            replacement::spliced(pass, &batch.kept[0], false, |x, y| {
                sums.reconstruct(&sae, x, y)
            })
        };
        let names = [&*hookpoint.name];
        let facts = Facts::read(&of_family).unwrap();
        let subjects = load(&bench.saes, &facts, Device::Cpu).unwrap();
        let totals = totals::Totals::new(&subjects, Device::Cpu).unwrap();
        let taps = clean::CleanTaps::new((&models, &facts), None, &totals).unwrap();
        let pass = clean::CleanPass::run(&models, &batch, &taps).unwrap();
        let logits = pass.logits_with(&names, splice).unwrap();
        let [(0, logits)] = &logits[..] else {
            panic!("one model")
        };
        let model = models.iter().next().unwrap();
        let clean = model.logits(&batch.input_ids).unwrap();
        assert!(logits.allclose(&clean, 1e-4, 1e-4, false), "{family}");
        assert_eq!(pass.logits(&taps).unwrap(), [clean], "{family}");
        let n_rows = if family == "gpt2" { 12 } else { 24 };
        assert_eq!(sums.n_tokens % n_rows, 0, "{family}");
    }
}

#[test]
fn an_sae_of_other_widths_or_at_no_hookpoint_is_told() {
    let mut bench = Bench::new();
    let narrow = Sae::new(SaeConfig::topk(16, 32, 4), 0, Device::Cpu).unwrap();
    bench.add("narrow", &narrow, &[]);
    let error = |bench: &Bench| {
        let go_on = &mut |_, _| ControlFlow::Continue(());
        evaluate(&bench.request(3), go_on).unwrap_err()
    };
    let widths = error(&bench);
    let message = widths.to_string();
    let expected =
        format!("has widths (16, 16), in and out, `{HOOKPOINT}` of the model needs (32, 32)");
    assert!(message.ends_with(&expected), "{message}");
    assert!(widths.hint().unwrap().contains("another model"));
    bench.saes.clear();
    bench.add_at("layers.2.mpl", "sae", &random(1), &[]);
    let unknown = error(&bench);
    assert_eq!(unknown.hint().unwrap(), "did you mean `layers.2.mlp`?");
    bench.saes[0].dir = bench.dir.path().join("nowhere");
    bench.saes[0].hookpoint = HOOKPOINT.into();
    assert!(error(&bench).to_string().contains("nowhere"));
}

#[test]
fn it_breaks_off_when_told_to() {
    let mut bench = Bench::new();
    bench.add("a", &random(1), &[]);
    let mut calls = Vec::new();
    let stopped = evaluate(&bench.request(3), &mut |n_done, n_sequences| {
        calls.push((n_done, n_sequences));
        match calls.len() {
            5 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert!(stopped.unwrap().is_none());
    assert_eq!(calls, [(0, 7), (0, 7), (0, 7), (0, 7), (3, 7)]);
    assert!(!bench.dir.path().join("eval").exists());
}

/// With the threshold that is found, as many latents as are wanted are above it on what a transcoder reads, too.
#[test]
fn thresholds_are_found_on_what_each_sae_reads() {
    let mut bench = Bench::new();
    for (name, transcode) in [("autoencoder", false), ("transcoder", true)] {
        let cfg = SaeConfig {
            activation: sae::Activation::JumpRelu,
            transcode,
            ..SaeConfig::topk(32, 96, 96)
        };
        let sae = Sae::new(cfg, 3, Device::Cpu).unwrap();
        let dir = bench.dir.path().join(name);
        sae.save(&dir, &sae::SaeLensMetadata::default()).unwrap();
        bench.saes.push(EvalSae {
            name: name.into(),
            hookpoint: "layers.1.mlp".into(),
            dir,
            exclude_tokens: Vec::new(),
            density: None,
        });
    }
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let wanted = [5.0, 5.5].map(|k| Wanted {
        k,
        estimate: Vec::new(),
    });
    let found = calibrate(&bench.request(3), &wanted, go_on).unwrap();
    let found = found.unwrap();
    let (model, input_ids) = (model(), bench.input_ids());
    let taps = Taps::new(model.facts(), &["layers.1.mlp"]).unwrap();
    let taps = taps.with_inputs(model.facts(), &["layers.1.mlp"]).unwrap();
    let activations = model.forward(&input_ids, &taps).unwrap();
    let read = [
        activations.get("layers.1.mlp").unwrap(),
        activations.input("layers.1.mlp").unwrap(),
    ];
    for ((found, x), (sae, wanted)) in found
        .iter()
        .zip(read)
        .zip(bench.saes.iter().zip([5.0, 5.5]))
    {
        let x = x.reshape([-1, D]);
        let mut sae = Sae::load_from_disk(&sae.dir, Device::Cpu).unwrap();
        let ones = sae.encoder_bias.ones_like();
        sae.set_thresholds(ones * found.threshold);
        let active = sae
            .encode(&x)
            .unwrap()
            .latent_acts
            .gt(0.0)
            .sum(Kind::Double);
        let l0 = active.double_value(&[]) / x.size()[0] as f64;
        close("mean L0", found.l0, wanted, 0.01);
        close("mean L0 of what is saved", l0, found.l0, 0.01);
    }
}
