//! Forward passes that do not wait for the number of columns with outliers, where some products have many.

use crate::testing::{TinyModel, relative};
use crate::{LanguageModel, LoadOptions, Replacements, Taps};
use std::cell::Cell;
use tch::{Device, Kind, Tensor};

/// Outputs of norms are so much larger that nearly all columns of what follows have outliers.
fn model() -> LanguageModel {
    let folder = TinyModel::with_tensors(|tensors| {
        for (name, tensor) in tensors {
            if name.contains("post_attention_layernorm") {
                for number in tensor.bytes.chunks_exact_mut(4) {
                    let weight = f32::from_le_bytes(number.try_into().unwrap());
                    number.copy_from_slice(&(weight * 5.0).to_le_bytes());
                }
            }
        }
    });
    let options = LoadOptions {
        load_in_8bit: true,
        with_head: true,
        ..LoadOptions::default()
    };
    LanguageModel::load(folder.dir(), &options).unwrap()
}

fn noting() -> LanguageModel {
    let mut model = model();
    model.notes_outliers = true;
    model
}

/// A product over other columns rounds differently, and the next layer may then quantise a number differently.
fn assert_near(what: &str, got: &Tensor, expected: &Tensor) {
    let error = relative(got, expected);
    assert!(error < 0.01, "{what}: {error:e}");
}

fn input_ids() -> Tensor {
    let ids = Tensor::arange(2 * 60, (Kind::Int64, Device::Cpu));
    (ids * 7).remainder(300).view([2, 60])
}

#[test]
fn a_pass_with_many_outliers_is_run_again_and_later_ones_give_the_same_bits() {
    let (noting, counting) = (noting(), model());
    let names = ["layers.0.mlp", "layers.3"];
    let taps = Taps::new(noting.facts(), &names).unwrap();
    let forward =
        |model: &LanguageModel| model.forward(&input_ids(), &taps).unwrap().into_tensors();
    let (first, later, expected) = (forward(&noting), forward(&noting), forward(&counting));
    for (idx, name) in names.into_iter().enumerate() {
        assert_eq!(first[idx], later[idx], "{name}");
        assert_near(name, &first[idx], &expected[idx]);
    }
}

/// A function would see outputs that are wrong, or be called again, if products were looked at only at the end.
#[test]
fn replacements_see_each_module_once_and_as_it_should_be() {
    let counting = model();
    let taps = Taps::new(counting.facts(), &["layers.1.mlp"]).unwrap();
    let expected = counting
        .forward(&input_ids(), &taps)
        .unwrap()
        .into_tensors();
    let logits = |model: &LanguageModel| {
        let n_calls = Cell::new(0);
        let mut replacements = Replacements::default();
        for name in ["layers.1.mlp", "layers.2.mlp"] {
            let replace = |pass: crate::ModulePass| {
                n_calls.set(n_calls.get() + 1);
                if n_calls.get() == 1 {
                    assert_near("output", pass.output, &expected[0]);
                }
                Ok(pass.output * 0.5)
            };
            replacements.add(model.facts(), name, replace).unwrap();
        }
        let logits = tch::no_grad(|| model.logits_with(&input_ids(), &mut replacements).unwrap());
        assert_eq!(n_calls.get(), 2);
        logits
    };
    let noting = noting();
    let (first, later) = (logits(&noting), logits(&noting));
    assert_eq!(first, later);
    assert_near("logits", &first, &logits(&counting));
}
