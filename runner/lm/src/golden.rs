//! Every family against transformers: see `tests/fixtures/README.md`, families.

mod changed_configs;

use crate::testing::{assert_close, fixtures, relative, test_device, wide};
use crate::{LanguageModel, LoadOptions, Replacements, Taps, rows};
use facts::{check_model, read_config, read_facts};
use plan::{Dtype, Vectors};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;
use tch::Tensor;

const CASES: [&str; 16] = [
    "gemma2",
    "gemma2-odd",
    "gemma3_text",
    "gpt2",
    "gpt2-odd",
    "gpt_neo",
    "gpt_neo-odd",
    "gpt_neox-parallel",
    "gpt_neox-sequential",
    "llama-linear",
    "llama-scaled",
    "mistral",
    "mistral-odd",
    "qwen2",
    "qwen3",
    "qwen3-odd",
];

/// A tiny random model and what transformers computes with it.
struct Case {
    dir: PathBuf,
    modules: Modules,
    tensors: HashMap<String, Tensor>,
}

#[derive(Deserialize)]
struct Modules {
    model_type: String,
    hookpoints: Vec<Hookpoint>,
    replaced: String,
}

/// A hookpoint, with the keys of its tensors.
#[derive(Deserialize)]
struct Hookpoint {
    name: String,
    d_in: Option<usize>,
    d_out: usize,
    output: String,
    input: Option<String>,
}

impl Case {
    fn read(name: &str) -> Self {
        let dir = fixtures().join("families").join(name);
        let modules = std::fs::read(dir.join("modules.json")).unwrap();
        let tensors = Tensor::read_safetensors(dir.join("golden.safetensors")).unwrap();
        Self {
            modules: serde_json::from_slice(&modules).unwrap(),
            tensors: tensors.into_iter().collect(),
            dir,
        }
    }

    fn load(&self, n_layers: Option<usize>, with_head: bool) -> LanguageModel {
        self.load_as(LoadOptions {
            n_layers,
            with_head,
            ..in_float32()
        })
    }

    fn load_as(&self, options: LoadOptions) -> LanguageModel {
        LanguageModel::load(&self.dir, &options).unwrap()
    }

    fn input_ids(&self) -> &Tensor {
        &self.tensors["input_ids"]
    }

    fn names(&self) -> Vec<&str> {
        let hookpoints = self.modules.hookpoints.iter();
        hookpoints
            .map(|hookpoint| hookpoint.name.as_str())
            .collect()
    }
}

fn in_float32() -> LoadOptions {
    LoadOptions {
        device: test_device(),
        dtype: Dtype::Float32,
        ..LoadOptions::default()
    }
}

fn for_each_case(check: impl Fn(&str, &Case)) {
    for name in CASES {
        check(name, &Case::read(name));
    }
}

#[test]
fn every_folder_is_a_case() {
    let folders = std::fs::read_dir(fixtures().join("families")).unwrap();
    assert_eq!(folders.count(), CASES.len());
}

#[test]
fn hookpoints_and_widths_come_from_the_configuration() {
    for_each_case(|name, case| {
        let facts = read_facts(&case.dir).unwrap();
        assert_eq!(facts.model_type, case.modules.model_type);
        let got = facts.hookpoints.iter();
        let got = got.map(|h| (h.name.as_str(), h.d_in, h.d_out));
        let expected = case.modules.hookpoints.iter();
        let expected = expected.map(|h| (h.name.as_str(), h.d_in, h.d_out));
        assert_eq!(
            got.collect::<Vec<_>>(),
            expected.collect::<Vec<_>>(),
            "{name}"
        );
    });
}

/// What planning knows of a hookpoint's vectors is what transformers gives.
#[test]
fn facts_say_how_many_vectors_a_hookpoint_gives() {
    for_each_case(|name, case| {
        let [n_sequences, ctx_len] = case.input_ids().size()[..] else {
            panic!("{name}")
        };
        let facts = read_facts(&case.dir).unwrap();
        for hookpoint in &case.modules.hookpoints {
            let expected = match facts.hookpoint(&hookpoint.name).unwrap().vectors {
                Vectors::Token => n_sequences * ctx_len,
                Vectors::Heads(n_heads) => n_heads as i64 * n_sequences * ctx_len,
                Vectors::Position => ctx_len,
            };
            let output = rows(&case.tensors[&hookpoint.output]).unwrap();
            assert_eq!(output.size()[0], expected, "{name}: {}", hookpoint.name);
        }
    });
}

#[test]
fn the_weights_are_whole_and_nothing_is_left_over() {
    for_each_case(|name, case| {
        let config = read_config(&case.dir).unwrap();
        let unexpected = check_model(&case.dir, config.facts().n_layers).unwrap();
        assert_eq!(unexpected, Vec::<String>::new(), "{name}");
    });
}

#[test]
fn every_output_and_every_input() {
    for_each_case(|name, case| {
        let model = case.load(None, false);
        let with_input = case.modules.hookpoints.iter();
        let with_input = with_input.filter(|hookpoint| hookpoint.input.is_some());
        let with_input: Vec<&str> = with_input.map(|h| h.name.as_str()).collect();
        let taps = Taps::new(model.facts(), &case.names()).unwrap();
        let taps = taps.with_inputs(model.facts(), &with_input).unwrap();
        let activations = model.forward(case.input_ids(), &taps).unwrap();
        for hookpoint in &case.modules.hookpoints {
            let what = format!("{name}: {}", hookpoint.name);
            let output = activations.get(&hookpoint.name).unwrap();
            assert_close(&what, output, &case.tensors[&hookpoint.output]);
            let Some(key) = &hookpoint.input else {
                continue;
            };
            let input = activations.input(&hookpoint.name).unwrap();
            assert_close(&format!("{what}, input"), input, &case.tensors[key]);
        }
    });
}

/// Each hookpoint alone, on a model that holds no more blocks than the facts say it needs.
#[test]
fn the_layers_needed_suffice() {
    for_each_case(|name, case| {
        let facts = read_facts(&case.dir).unwrap();
        for n_layers in 0..=facts.n_layers {
            let model = case.load(Some(n_layers), false);
            for hookpoint in &case.modules.hookpoints {
                let taps = Taps::new(&facts, &[&hookpoint.name]).unwrap();
                if taps.n_layers_needed() != n_layers {
                    continue;
                }
                let activations = model.forward(case.input_ids(), &taps).unwrap();
                let output = activations.get(&hookpoint.name).unwrap();
                let what = format!("{name}: {} alone", hookpoint.name);
                assert_close(&what, output, &case.tensors[&hookpoint.output]);
            }
        }
    });
}

#[test]
fn hidden_states_and_logits() {
    for_each_case(|name, case| {
        let model = case.load(None, true);
        let hidden_states = model.hidden_states(case.input_ids()).unwrap();
        assert_eq!(hidden_states.len(), model.facts().n_layers + 1);
        for (layer_idx, hidden) in hidden_states.iter().enumerate() {
            let expected = &case.tensors[&format!("hidden_states.{layer_idx}")];
            assert_close(
                &format!("{name}: hidden state {layer_idx}"),
                hidden,
                expected,
            );
        }
        let logits = model.logits(case.input_ids()).unwrap();
        assert_close(&format!("{name}: logits"), &logits, &case.tensors["logits"]);
        let loss = cross_entropy(&logits, case.input_ids());
        assert_close(&format!("{name}: loss"), &loss, &case.tensors["loss"]);
    });
}

/// Whether libtorch computes here as where the golden files were made: with AVX2 and nothing newer, and
/// without a variable that limits it to less.
fn computes_as_when_made() -> bool {
    let is_held = ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR"]
        .iter()
        .any(|variable| std::env::var_os(variable).is_some());
    #[cfg(target_arch = "x86_64")]
    let is_of_that_kind = std::arch::is_x86_feature_detected!("avx2")
        && !std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    let is_of_that_kind = false;
    is_of_that_kind && !is_held && !test_device().is_cuda()
}

/// If each operation rounds as in transformers, the results are bit-identical, except for the sums
/// within products. GELU in one operation instead of eight would be off by 7.7e-3 and 1.1e-3.
///
/// The golden logits are of a CPU with AVX2. On one with products of 16 bit, of other sums, transformers itself
/// is off from them by up to 7.7e-3 and 1.3e-3.
#[test]
fn logits_in_16_bit() {
    let (of_bfloat16, of_float16) = if computes_as_when_made() {
        (4e-3, 5e-4)
    } else {
        (1.5e-2, 2.5e-3)
    };
    for_each_case(|name, case| {
        for (dtype, key, tolerance) in [
            (Dtype::BFloat16, "logits_bfloat16", of_bfloat16),
            (Dtype::Float16, "logits_float16", of_float16),
        ] {
            let model = case.load_as(LoadOptions {
                dtype,
                with_head: true,
                ..in_float32()
            });
            let logits = model.logits(case.input_ids()).unwrap();
            let difference = relative(&logits, &case.tensors[key]);
            assert!(
                difference < tolerance,
                "{name}: {key} off by {difference:e}"
            );
        }
    });
}

/// The mean over all tokens but the first of each sequence.
fn cross_entropy(logits: &Tensor, input_ids: &Tensor) -> Tensor {
    let n_targets = input_ids.size()[1] - 1;
    let logits = wide(logits).narrow(1, 0, n_targets).flatten(0, 1);
    let targets = input_ids.narrow(1, 1, n_targets).flatten(0, 1);
    logits.cross_entropy_for_logits(&targets)
}

/// The output of one hookpoint halved, and the loss's gradient with respect to what replaced it.
#[test]
fn replaced_outputs_and_their_gradients() {
    for_each_case(|name, case| {
        let model = case.load(None, true);
        let mut replaced = None;
        let mut replacements = Replacements::default();
        replacements
            .add(model.facts(), &case.modules.replaced, |pass| {
                let half = (pass.output.detach() * 0.5).set_requires_grad(true);
                replaced = Some(half.shallow_clone());
                Ok(half)
            })
            .unwrap();
        let logits = model
            .logits_with(case.input_ids(), &mut replacements)
            .unwrap();
        drop(replacements);
        let what = format!("{name}: {} halved", case.modules.replaced);
        assert_close(&what, &logits.detach(), &case.tensors["replaced_logits"]);
        let replaced = replaced.expect("the module runs");
        let gradients = Tensor::run_backward(
            &[cross_entropy(&logits, case.input_ids())],
            &[replaced],
            false,
            false,
        );
        let difference = relative(&gradients[0], &case.tensors["replaced_grad"]);
        assert!(difference < 1e-4, "{what}: gradient off by {difference:e}");
    });
}

/// The same modules in 8 bit: near the full-precision outputs, and little more than half of bfloat16's
/// memory, whose two bytes a weight become one and a scale for each row.
#[test]
fn in_8bit_every_family_stays_near() {
    for_each_case(|name, case| {
        let load = |dtype, load_in_8bit| {
            case.load_as(LoadOptions {
                dtype,
                load_in_8bit,
                ..in_float32()
            })
        };
        let model = load(Dtype::Float32, true);
        let n_bytes = model.linear_bytes() as f64;
        let of_bf16 = n_bytes / load(Dtype::BFloat16, false).linear_bytes() as f64;
        assert!((0.5..0.65).contains(&of_bf16), "{name}: {of_bf16}");
        let taps = Taps::new(model.facts(), &case.names()).unwrap();
        let activations = model.forward(case.input_ids(), &taps).unwrap();
        let (mut n_exact, mut worst) = (0, 0.0);
        for hookpoint in &case.modules.hookpoints {
            let (got, expected) = (
                activations.get(&hookpoint.name).unwrap(),
                &case.tensors[&hookpoint.output],
            );
            let error = relative(got, expected);
            n_exact += usize::from(error < 1e-6);
            worst = f64::max(worst, error);
        }
        // It does not affect embeddings and the first norm, but everything after a linear module.
        assert!(
            (2..=5).contains(&n_exact),
            "{name}: {n_exact} modules exact"
        );
        assert!(worst < 0.2, "{name}: {worst}");
    });
}

/// `int8/modules.json`: all linear modules but the head, tied or not, and no others.
#[test]
fn in_8bit_the_same_modules_as_in_transformers() {
    let path = fixtures().join("int8/modules.json");
    let replaced: HashMap<String, Vec<String>> =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(replaced.len(), CASES.len());
    for_each_case(|name, case| {
        let mut expected = replaced[name].clone();
        expected.sort_unstable();
        let layout = read_config(&case.dir).unwrap().layout();
        let quantised = layout.modules.iter().filter(|module| module.is_product());
        let mut names: Vec<_> = quantised.map(|m| m.hookpoint.name.clone()).collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{name}");

        let model = case.load_as(LoadOptions {
            load_in_8bit: true,
            with_head: true,
            ..in_float32()
        });
        // A byte for each weight, and a float32 for each row.
        let hookpoints = model.facts().hookpoints.iter();
        let n_bytes = hookpoints
            .filter(|hookpoint| expected.contains(&hookpoint.name))
            .map(|hookpoint| (hookpoint.d_in.unwrap() + 4) * hookpoint.d_out);
        assert_eq!(
            model.linear_bytes(),
            n_bytes.sum::<usize>() as u64,
            "{name}"
        );
    });
}
