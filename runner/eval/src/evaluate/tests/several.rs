//! Crosscoders and cross-layer transcoders.

use super::*;
use lm::Activations;
use std::cell::RefCell;

const MLPS: [&str; 3] = ["layers.0.mlp", "layers.1.mlp", "layers.2.mlp"];

fn names(hookpoints: &[&str]) -> Vec<String> {
    hookpoints.iter().map(|name| (*name).to_owned()).collect()
}

fn noise(shape: &[i64], seed: i64) -> Tensor {
    sae::with_seed(seed, || Tensor::randn(shape, (Kind::Float, Device::Cpu)))
}

fn crosscoder(hookpoints: &[&str], num_latents: usize, k: usize) -> Sae {
    let cfg = SaeConfig {
        hookpoints: names(hookpoints),
        normalize_decoder: false,
        ..SaeConfig::topk(32 * hookpoints.len(), num_latents, k)
    };
    let mut sae = Sae::new(cfg, 5, Device::Cpu).unwrap();
    sae.b_dec = noise(&sae.b_dec.size(), 6) * 0.1;
    sae
}

fn layer(layer: usize) -> Sae {
    let cfg = SaeConfig {
        transcode: true,
        skip_connection: layer == 1,
        hookpoints: names(&MLPS[layer..]),
        d_out: Some(32 * (3 - layer)),
        normalize_decoder: false,
        ..SaeConfig::topk(32, 96, 5)
    };
    let seed = layer as i64;
    let mut sae = Sae::new(cfg, seed, Device::Cpu).unwrap();
    sae.w_dec = noise(&sae.w_dec.size(), 10 + seed) * 0.2;
    sae.b_dec = noise(&sae.b_dec.size(), 20 + seed) * 0.1;
    sae
}

impl Bench {
    fn add_saved(&mut self, name: &str, hookpoint: &str, sae: &Sae, exclude_tokens: &[u32]) {
        let dir = self.dir.path().join(name);
        sae.save(&dir, &sae::SaeLensMetadata::default()).unwrap();
        self.saes.push(EvalSae {
            name: name.into(),
            hookpoint: hookpoint.into(),
            dir,
            exclude_tokens: exclude_tokens.to_vec(),
            density: None,
        });
    }

    fn add_layers(&mut self, folder: &str) -> Vec<Sae> {
        let layers: Vec<Sae> = (0..3).map(layer).collect();
        // The order in which they are given does not matter.
        for index in [2, 0, 1] {
            let hookpoint = MLPS[index];
            self.add_saved(
                &format!("{folder}/{hookpoint}"),
                hookpoint,
                &layers[index],
                &[],
            );
        }
        layers
    }
}

/// The inputs and outputs of the MLPs.
fn activations(model: &LanguageModel, input_ids: &Tensor) -> Activations {
    let taps = Taps::new(model.facts(), &MLPS).unwrap();
    let taps = taps.with_inputs(model.facts(), &MLPS).unwrap();
    model.forward(input_ids, &taps).unwrap()
}

fn output(activations: &Activations, hookpoint: &str) -> Tensor {
    activations.get(hookpoint).unwrap().reshape([-1, D])
}

/// The logits with MLPs' outputs replaced where `keep` is 1: what `replace` makes of the index, and of the input.
fn logits_with(
    model: &LanguageModel,
    input_ids: &Tensor,
    keep: &Tensor,
    replace: &dyn Fn(usize, &Tensor) -> Tensor,
) -> Tensor {
    let mut replacements = Replacements::default();
    for (index, hookpoint) in MLPS.iter().enumerate() {
        let put = move |pass: lm::ModulePass| {
            let replaced = replace(index, &pass.input.reshape([-1, D]));
            let replaced = replaced.view_as(pass.output);
            Ok(replaced.where_self(&keep.unsqueeze(-1).gt(0), pass.output))
        };
        replacements.add(model.facts(), hookpoint, put).unwrap();
    }
    model.logits_with(input_ids, &mut replacements).unwrap()
}

/// Sums of the cross-entropy of `logits`, and of the divergence from `clean`, over the tokens that count.
fn losses(logits: &Tensor, clean: &Tensor, input_ids: &Tensor, keep: &Tensor) -> [f64; 2] {
    let predicting = |x: &Tensor| x.narrow(1, 0, CTX_LEN - 1);
    let [q, p] = [logits, clean].map(|x| predicting(x).log_softmax(-1, Kind::Double));
    let next = input_ids.narrow(1, 1, CTX_LEN - 1).unsqueeze(-1);
    let keep = predicting(keep);
    let ce = -(q.gather(-1, &next, false).squeeze_dim(-1) * &keep);
    let kl: Tensor = p.exp() * (&p - &q);
    let kl = kl.sum_dim_intlist([-1i64].as_slice(), false, Kind::Double) * keep;
    [ce, kl].map(|sum| sum.sum(Kind::Double).double_value(&[]))
}

#[test]
fn a_perfect_crosscoder_costs_nothing() {
    let blocks = ["layers.0", "layers.1", "layers.2"];
    let mut sae = crosscoder(&blocks, 192, 192);
    let eye = Tensor::eye(3 * D, (Kind::Float, Device::Cpu));
    sae.encoder_weight = Tensor::cat(&[&eye, &(-&eye)], 0);
    sae.w_dec = sae.encoder_weight.copy();
    let mut bench = Bench::new();
    bench.add_saved("crosscoder", "any", &sae, &[]);
    let stats = bench.run(3)[0];
    assert_eq!((stats.n_tokens, stats.n_predicted), (7 * 64, 7 * 63));
    close("FVU", stats.fvu(), 0.0, 1e-10);
    close("KL", stats.mean_kl(), 0.0, 1e-6);
    close("recovered", recovered(&stats), 1.0, 1e-4);
}

#[test]
fn a_crosscoder_is_spliced_in_at_all_its_hookpoints() {
    let sae = crosscoder(&MLPS, 200, 7);
    let mut bench = Bench::new();
    bench.add_saved("crosscoder", "any", &sae, &[]);
    bench.add_saved("excluding", "any", &sae, &[65, 12]);
    let (model, input_ids) = (model(), bench.input_ids());
    let clean = model.logits(&input_ids).unwrap();
    let measured = bench.run(3);
    for (stats, excluded) in measured.iter().zip([vec![], vec![65, 12]]) {
        let mut keep = input_ids.ones_like();
        for token in &excluded {
            keep = keep.masked_fill(&input_ids.eq(*token as i64), 0);
        }
        let counting = keep.flatten(0, -1).nonzero().squeeze_dim(1);
        let activations = activations(&model, &input_ids);
        let outputs = MLPS.map(|name| output(&activations, name));
        let all = Tensor::cat(&outputs, 1);
        let out = sae.forward(&all).unwrap().sae_out.split(D, 1);
        let spliced = logits_with(&model, &input_ids, &keep, &|index, _| {
            out[index].contiguous()
        });
        let kept = all.index_select(0, &counting);
        let mean = kept.mean_dim(0, true, Kind::Double);
        let means = mean
            .to_kind(Kind::Float)
            .expand_as(&all)
            .contiguous()
            .split(D, 1);
        let ablated = logits_with(&model, &input_ids, &keep, &|index, _| {
            means[index].contiguous()
        });
        let [ce_spliced, kl] = losses(&spliced, &clean, &input_ids, &keep);
        let [ce_ablated, _] = losses(&ablated, &clean, &input_ids, &keep);
        let [ce_clean, _] = losses(&clean, &clean, &input_ids, &keep);
        let sums = EvalStats {
            squared_error: square(&(Tensor::cat(&out, 1).index_select(0, &counting) - &kept)),
            total_variance: square(&(kept.to_kind(Kind::Double) - mean)),
            ce_clean,
            ce_spliced,
            ce_ablated,
            kl,
            n_tokens: counting.size()[0] as u64,
            n_predicted: keep
                .narrow(1, 0, CTX_LEN - 1)
                .sum(Kind::Int64)
                .int64_value(&[]) as u64,
            ..*stats
        };
        close("L0", stats.mean_l0(), 7.0, 0.01);
        agree(stats, &sums, 1e-5);
    }
    let others = bench.run(7);
    agree(&others[1], &measured[1], 1e-5);
}

#[test]
fn layers_are_spliced_in_together() {
    let mut bench = Bench::new();
    let layers = bench.add_layers("clt");
    let (model, input_ids) = (model(), bench.input_ids());
    let clean = model.logits(&input_ids).unwrap();
    let keep = input_ids.ones_like();
    // Of the sum of what each layer up to `index` writes there.
    let written = RefCell::new(Vec::<Tensor>::new());
    let reset = || {
        let zeros = (0..3).map(|_| Tensor::zeros([7 * CTX_LEN, D], (Kind::Float, Device::Cpu)));
        *written.borrow_mut() = zeros.collect();
    };
    let write = |index: usize, x: &Tensor| {
        let parts = layers[index].forward(x).unwrap().sae_out.split(D, 1);
        for (later, part) in parts.iter().enumerate() {
            let sum = &mut written.borrow_mut()[index + later];
            *sum = &*sum + part;
        }
        written.borrow()[index].copy()
    };
    let on_clean = activations(&model, &input_ids);
    reset();
    let errors: Vec<f64> = (0..3)
        .map(|index| {
            let x = on_clean.input(MLPS[index]).unwrap().reshape([-1, D]);
            square(&(write(index, &x) - output(&on_clean, MLPS[index])))
        })
        .collect();
    reset();
    let spliced = logits_with(&model, &input_ids, &keep, &write);
    let [ce_spliced, kl] = losses(&spliced, &clean, &input_ids, &keep);
    let of_layer = |name: &str| {
        let index = MLPS.iter().position(|mlp| name.ends_with(mlp));
        index.unwrap()
    };
    let measured = bench.run(3);
    for (stats, spec) in measured.iter().zip(&bench.saes) {
        let index = of_layer(&spec.name);
        let y = output(&on_clean, MLPS[index]).to_kind(Kind::Double);
        let sums = EvalStats {
            squared_error: errors[index],
            total_variance: square(&(&y - y.mean_dim(0, true, Kind::Double))),
            ce_spliced,
            kl,
            ..*stats
        };
        agree(stats, &sums, 1e-5);
        assert_eq!((stats.n_tokens, stats.mean_l0()), (7 * 64, 5.0));
        assert!(stats.ce_ablated > stats.ce_clean);
    }
}

#[test]
fn a_layer_without_the_others_is_not_evaluated() {
    let mut bench = Bench::new();
    bench.add_layers("clt");
    let first = bench.saes.remove(1);
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let error = evaluate(&bench.request(3), &Alone, go_on).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("`clt/layers.2.mlp` is a layer of a cross-layer"),
        "{message}"
    );
    assert!(
        message.contains("clt/layers.0.mlp` is missing"),
        "{message}"
    );
    bench.saes.push(first);
    assert_eq!(bench.run(3).len(), 3);
}

/// A model in a folder of the bench that has the tiny one's tokenizer and other weights.
fn make_second(bench: &mut Bench) -> LanguageModel {
    let dir = bench.dir.path().join("second");
    fs::create_dir(&dir).unwrap();
    let tiny = fixtures().join("tiny-llama");
    fs::copy(tiny.join("config.json"), dir.join("config.json")).unwrap();
    let weights = Tensor::read_safetensors(tiny.join("model.safetensors")).unwrap();
    let others = weights
        .into_iter()
        .map(|(name, tensor)| (name, tensor.flip([0i64]) * 0.9));
    let others: Vec<_> = others.collect();
    Tensor::write_safetensors(&others, dir.join("model.safetensors")).unwrap();
    let options = LoadOptions {
        with_head: true,
        ..LoadOptions::default()
    };
    let second = LanguageModel::load(&dir, &options).unwrap();
    bench.second = Some(dir);
    second
}

#[test]
fn a_crosscoder_of_two_models_is_spliced_into_both() {
    let sae = crosscoder(&["layers.1", "2:layers.1"], 200, 9);
    let mut bench = Bench::new();
    bench.add_saved("crosscoder", "any", &sae, &[]);
    let models = [model(), make_second(&mut bench)];
    let input_ids = bench.input_ids();
    let keep = input_ids.ones_like();
    let rows = models.each_ref().map(|model| {
        let taps = Taps::new(model.facts(), &["layers.1"]).unwrap();
        let activations = model.forward(&input_ids, &taps).unwrap();
        output(&activations, "layers.1")
    });
    let x = Tensor::cat(&rows, 1);
    let out = sae.forward(&x).unwrap().sae_out;
    let mean = x.mean_dim(0, true, Kind::Double);
    let mut sums = EvalStats {
        n_tokens: 7 * 64,
        n_predicted: 2 * 7 * 63,
        squared_error: square(&(&out - &x)),
        total_variance: square(&(x.to_kind(Kind::Double) - &mean)),
        ..EvalStats::default()
    };
    let means = mean.to_kind(Kind::Float).expand_as(&x).contiguous();
    for (index, model) in models.iter().enumerate() {
        let clean = model.logits(&input_ids).unwrap();
        let with = |all: &Tensor| {
            let own = all.narrow(1, index as i64 * D, D).contiguous();
            let mut replacements = Replacements::default();
            let put = |pass: lm::ModulePass| Ok(own.view_as(pass.output));
            replacements.add(model.facts(), "layers.1", put).unwrap();
            let logits = model.logits_with(&input_ids, &mut replacements).unwrap();
            losses(&logits, &clean, &input_ids, &keep)
        };
        sums.ce_clean += losses(&clean, &clean, &input_ids, &keep)[0];
        let [ce, kl] = with(&out);
        sums.ce_spliced += ce;
        sums.kl += kl;
        sums.ce_ablated += with(&means)[0];
    }
    let stats = bench.run(3)[0];
    let counted = EvalStats {
        l0: stats.l0,
        n_dead: stats.n_dead,
        ..sums
    };
    agree(&stats, &counted, 1e-5);
    close("L0", stats.mean_l0(), 9.0, 0.05);
}

#[test]
fn a_crosscoder_of_two_models_needs_both() {
    let mut bench = Bench::new();
    let sae = crosscoder(&["layers.1", "2:layers.2"], 64, 9);
    bench.add_saved("crosscoder", "any", &sae, &[]);
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let error = evaluate(&bench.request(3), &Alone, go_on).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("`layers.2` of a second model"),
        "{message}"
    );
    assert!(error.hint().unwrap().contains("--crosscoder-model"));
}
