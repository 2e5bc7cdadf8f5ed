//! Every kind of SAE against SAELens and dictionary_learning, and crosscoders against crosscoder_learning, on the same
//! tokens and weights: gradients of the first update and of a later one, the loss of 50 updates, and the weights after
//! them. Made by `tests/fixtures/make_kinds_golden.py` and `make_crosscoder_golden.py`.

use crate::Stepper;
use crate::ranks::ALONE;
use crate::sae_trainer::Progress;
use plan::TrainConfig;
use sae::{Affine, Moments, Sae, tensors_by_name};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

const N_UPDATES: u64 = 50;
const LATER: u64 = 30;
const N_TOKENS: f64 = 64.0;

fn folder(of: &str) -> PathBuf {
    crate::testing::fixtures().join("golden").join(of)
}

fn cases(of: &str) -> Vec<(String, Value)> {
    let text = fs::read(folder(of).join("cases.json")).unwrap();
    let mut all: Value = serde_json::from_slice(&text).unwrap();
    let Value::Object(cases) = all["cases"].take() else {
        panic!("not an object")
    };
    cases.into_iter().collect()
}

struct Case {
    name: String,
    stepper: Stepper,
    golden: HashMap<String, Tensor>,
    /// How far the reference's own loss moves if its input moves by a millionth, at most.
    spread: f64,
}

impl Case {
    fn new(of: &str, name: &str, case: &Value) -> Self {
        let config: TrainConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let golden = tensors_by_name(&folder(of).join(format!("{name}.safetensors"))).unwrap();
        let stepper = Stepper::new(&config, 16, Device::Cpu).unwrap();
        let names = stepper.sae().named_weights().into_iter();
        let first = names.map(|(weight, _)| golden[&format!("first/{weight}")].copy());
        let first = first.collect();
        let spread = case["spread"].as_array().unwrap().iter();
        Self {
            name: name.into(),
            stepper: stepper.beginning_with(first, N_UPDATES),
            golden,
            spread: spread.filter_map(Value::as_f64).fold(0.0, f64::max),
        }
    }

    /// Activations as they are trained on. Columns of a whitening matrix have any sign: it is the reference's.
    fn scaled(&mut self, x: Tensor) -> Tensor {
        let float = |name: &str| Some(self.golden.get(name)?.to_kind(Kind::Float));
        let affine = || match (float("scaler/scale"), float("scaler/matrix")) {
            (Some(scale), _) => Some(Affine {
                mean: x.new_zeros([16], (Kind::Float, Device::Cpu)),
                inverse: scale.reciprocal(),
                matrix: scale,
            }),
            (None, Some(matrix)) => Some(Affine {
                mean: float("scaler/mean")?,
                matrix,
                inverse: float("scaler/inverse_matrix")?,
            }),
            (None, None) => None,
        };
        let Some((input, output)) = affine().zip(affine()) else {
            return x;
        };
        let scaled = input.of(&x).unwrap();
        self.stepper.trainer.set_scaling(input, output);
        scaled
    }

    fn curve(&self, name: &str) -> Option<Vec<f64>> {
        let curve = self.golden.get(&format!("curve/{name}"))?;
        Some(Vec::try_from(curve).unwrap())
    }

    /// The gradients of the next update, by weight, and the terms of its loss by token: of reconstructions and
    /// penalties.
    fn gradients(&mut self, x: &Tensor, step: u64) -> (Vec<(&'static str, Tensor)>, [f64; 2]) {
        let trainer = &mut self.stepper.trainer;
        let names: Vec<&'static str> = trainer
            .sae
            .named_weights()
            .iter()
            .map(|(name, _)| *name)
            .collect();
        let mut update = trainer.start(progress(step)).unwrap();
        update.add(x, x).unwrap();
        let (gradients, losses, _) = update.decided(ALONE).unwrap();
        let value = |term: &Option<Tensor>| term.as_ref().map(|term| term.double_value(&[]));
        let recon = value(&losses.nested).unwrap_or(losses.squared_error.double_value(&[]));
        let terms = [recon, value(&losses.sparsity).unwrap_or(0.0)].map(|sum| sum / N_TOKENS);
        let by_token = gradients.into_iter().map(|gradient| gradient / N_TOKENS);
        (names.into_iter().zip(by_token).collect(), terms)
    }

    fn assert_gradients(&mut self, x: &Tensor, step: u64, when: &str) {
        let (gradients, _) = self.gradients(x, step);
        for (weight, gradient) in gradients {
            let theirs = &self.golden[&format!("{when}/grad.{weight}")];
            let off = relative(&gradient, theirs);
            assert!(off < 1e-4, "{}, {when}, {weight}: {off}", self.name);
        }
    }
}

fn progress(step: u64) -> Progress {
    Progress {
        step,
        n_steps: N_UPDATES,
    }
}

fn relative(ours: &Tensor, theirs: &Tensor) -> f64 {
    let scale = theirs.norm().double_value(&[]).max(1e-6);
    (ours - theirs).norm().double_value(&[]) / scale
}

/// What a case is compared in.
fn compare(of: &str, name: &str, case: &Value, batches: &Tensor) {
    let mut case = Case::new(of, name, case);
    let x = case.scaled(batches.get(0));
    case.assert_gradients(&x, 0, "first");
    let recon = case.curve("recon").unwrap();
    let penalty = case
        .curve("sparsity")
        .filter(|_| case.curve("pre_act").is_none());
    let of_hookpoints = ["threshold_0", "threshold_1"].map(|name| case.curve(name));
    let thresholds = case.curve("threshold").into_iter();
    let thresholds: Vec<_> = thresholds
        .chain(of_hookpoints.into_iter().flatten())
        .collect();
    let tolerance = (10.0 * case.spread).max(1e-2);
    for step in 0..N_UPDATES {
        let x = case.scaled(batches.get(step as i64));
        let (_, terms) = case.gradients(&x, step);
        for (ours, theirs) in terms.iter().zip([Some(&recon), penalty.as_ref()]) {
            let theirs = theirs.map_or(*ours, |curve| curve[step as usize]);
            let off = (ours - theirs).abs();
            assert!(off <= tolerance * theirs, "{name}, {step}: {ours} {theirs}");
        }
        if step == LATER && case.spread < 1e-4 {
            case.assert_gradients(&x, step, "later");
        }
        let trainer = &mut case.stepper.trainer;
        let moments = Moments::of(&x).unwrap();
        let update = trainer.start(progress(step)).unwrap();
        update
            .finish_on((&x, &x), &moments, progress(step))
            .unwrap();
        if let Some(ours) = trainer
            .threshold
            .as_ref()
            .filter(|_| !thresholds.is_empty())
        {
            let ours = Vec::<f64>::try_from(ours.value.reshape([-1])).unwrap();
            assert_eq!(ours.len(), thresholds.len());
            for (ours, theirs) in ours.into_iter().zip(&thresholds) {
                let theirs = theirs[step as usize];
                let off = (ours - theirs).abs();
                assert!(off < 1e-3 * theirs.abs(), "{name}, {step}: {ours} {theirs}");
            }
        }
    }
    for (weight, ours) in case.stepper.sae().named_weights() {
        let off = relative(ours, &case.golden[&format!("final/{weight}")]);
        assert!(
            off < 1e-2 || case.spread > 1e-4,
            "{name}, final {weight}: {off}"
        );
    }
    if case.golden.contains_key("folded/W_dec") {
        let published = case.stepper.trainer.published().unwrap();
        assert_folded(name, &published, &case.golden, &batches.get(3));
    }
}

/// What is written computes what SAELens's folded weights do.
fn assert_folded(name: &str, ours: &Sae, golden: &HashMap<String, Tensor>, x: &Tensor) {
    let weight = |name: &str| {
        golden
            .get(&format!("folded/{name}"))
            .map(|w| w.to_kind(Kind::Float))
    };
    let mut theirs =
        ours.with_weights(ours.named_weights().iter().map(|(_, w)| w.copy()).collect());
    theirs.encoder_weight = weight("encoder.weight").unwrap();
    theirs.encoder_bias = weight("encoder.bias").unwrap();
    theirs.w_dec = weight("W_dec").unwrap();
    theirs.b_dec = weight("b_dec").unwrap();
    if let Some(threshold) = weight("threshold") {
        // It is compared with pre-activations times the norms of the decoder's rows.
        theirs.threshold = Some(threshold / theirs.decoder_norms().unwrap());
    }
    let [ours, theirs] = [ours, &theirs].map(|sae| sae.forward(x).unwrap().sae_out);
    let off = relative(&ours, &theirs);
    assert!(off < 1e-2, "{name}, folded: {off}");
}

/// Compares all cases of a folder.
fn compare_all(of: &str) {
    let _no_grad = tch::no_grad_guard();
    let activations = folder("kinds").join("activations.safetensors");
    let batches = tensors_by_name(&activations).unwrap()["x"].to_kind(Kind::Float);
    let mut failed = Vec::new();
    for (name, case) in cases(of) {
        // Where a reference is wrong, another case has the right formula.
        if !case["fault"].is_null() {
            continue;
        }
        let run = std::panic::AssertUnwindSafe(|| compare(of, &name, &case, &batches));
        if std::panic::catch_unwind(run).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn every_kind_is_that_of_its_reference() {
    compare_all("kinds");
}

#[test]
fn crosscoders_are_those_of_their_reference() {
    compare_all("crosscoders");
}
