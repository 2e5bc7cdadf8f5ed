use super::*;
use crate::testing::{TinyModel, assert_close};
use facts::testing::lacks;
use facts::{Architecture, FactsError};
use fault::Remedy;
use serde_json::{Value, json};

fn read_rope(changes: Value) -> Result<RopeConfig, FactsError> {
    let model = TinyModel::with_config(changes);
    match facts::read_config(model.dir())?.architecture {
        Architecture::Decoder(config) => Ok(config.ropes[0].clone()),
        other => panic!("a Llama is a decoder: {other:?}"),
    }
}

const LLAMA3: RopeScaling = RopeScaling::Llama3 {
    factor: 8.0,
    low_freq_factor: 1.0,
    high_freq_factor: 4.0,
    original_max_position_embeddings: 64.0,
};

#[test]
fn old_and_new_keys_mean_the_same() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
        "high_freq_factor": 4, "original_max_position_embeddings": 64});
    let mut with_theta = llama3.clone();
    with_theta["rope_theta"] = json!(5e5);
    let newer = json!({"rope_parameters": with_theta});
    let older = json!({"rope_parameters": null, "rope_theta": 5e5, "rope_scaling": llama3});
    for changes in [newer, older] {
        let rope = read_rope(changes).unwrap();
        assert_eq!((rope.rope_theta, rope.scaling), (5e5, LLAMA3));
    }
    let linear = json!({"rope_parameters": null, "rope_scaling": {"type": "linear", "factor": 2}});
    assert_eq!(
        read_rope(linear).unwrap().scaling,
        RopeScaling::Linear { factor: 2.0 }
    );
}

#[test]
fn neither_old_nor_new_keys() {
    let rope = read_rope(json!({"rope_parameters": null})).unwrap();
    assert_eq!(
        (rope.rope_theta, rope.scaling),
        (10_000.0, RopeScaling::Default)
    );
}

#[test]
fn unsupported_and_missing_keys() {
    let longrope = json!({"rope_parameters": {"rope_type": "longrope", "factor": 4.0}});
    let error = read_rope(longrope).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("is `longrope`, which is not supported"),
        "{message}"
    );
    assert_eq!(
        error.hint().unwrap(),
        "supported are: default, dynamic, linear, llama3, yarn"
    );
    for rope_type in ["linear", "dynamic", "yarn"] {
        let error = read_rope(json!({"rope_parameters": {"rope_type": rope_type}})).unwrap_err();
        assert!(lacks(&error, "factor"), "{error}");
    }
}

/// `rope_parameters` of the tiny model has the base 10 000 and no scaling.
#[test]
fn keys_that_contradict_each_other_are_both_named() {
    let yarn = json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8});
    for (changes, parts) in [
        (
            json!({"rope_theta": 5.0}),
            ["`rope_theta`", "`rope_parameters`"],
        ),
        (
            json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
            ["`rope_scaling`", "`rope_parameters`"],
        ),
        // The base as well: transformers would take 10 000.
        (
            json!({"rope_parameters": {"rope_theta": 5e5}, "rope_scaling": {"type": "default"}}),
            ["`rope_scaling`", "`rope_parameters`"],
        ),
        (
            json!({"rope_parameters": null, "rope_theta": 5.0, "rope_scaling":
                {"type": "default", "rope_theta": 7.0}}),
            ["`rope_theta`", "`rope_scaling`"],
        ),
        (
            json!({"rope_parameters": {"rope_type": "default", "type": "linear", "factor": 2.0}}),
            ["`type`", "`rope_type`"],
        ),
        (
            json!({"rope_parameters": yarn, "original_max_position_embeddings": 9}),
            ["`original_max_position_embeddings`", "rope parameters"],
        ),
        (
            json!({"partial_rotary_factor": 0.5, "rope_parameters": yarn}),
            ["`partial_rotary_factor`", "whole heads"],
        ),
        (
            json!({"rope_parameters": {"full_attention": {"rope_theta": 5.0}}}),
            ["`full_attention`", "one rotary embedding"],
        ),
    ] {
        let error = read_rope(changes).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn keys_that_say_the_same_are_read() {
    for changes in [
        json!({"rope_theta": 10_000}),
        json!({"rope_scaling": {}}),
        json!({"rope_scaling": {"type": "default", "rope_theta": 1e4}}),
        // transformers still rotates whole heads.
        json!({"partial_rotary_factor": 0.5}),
        json!({"partial_rotary_factor": 1.0, "rope_parameters": null}),
    ] {
        let rope = read_rope(changes).unwrap();
        assert_eq!(
            (rope.rope_theta, rope.scaling),
            (10_000.0, RopeScaling::Default)
        );
    }
}

/// Nothing but this rope type is made for more positions than config.json says.
#[test]
fn dynamic_frequencies_reach_further() {
    let dynamic =
        json!({"rope_scaling": {"type": "dynamic", "factor": 2.5}, "rope_parameters": null});
    let model = TinyModel::with_config(dynamic);
    assert_eq!(facts::read_facts(model.dir()).unwrap().max_ctx_len, 320);
    let yarn = json!({"rope_parameters": {"rope_type": "yarn", "factor": 2.5}});
    let model = TinyModel::with_config(yarn);
    assert_eq!(facts::read_facts(model.dir()).unwrap().max_ctx_len, 128);
}

/// Expected values: `ROPE_INIT_FUNCTIONS["llama3"]` of transformers 5.23.0.
#[test]
fn llama3_frequencies_agree_with_transformers() {
    let config = RopeConfig {
        rope_theta: 5e5,
        scaling: LLAMA3,
        partial_factor: None,
    };
    let expected = [
        1.0_f32,
        0.079_403_01,
        0.004_700_754,
        0.000_911_583_1,
        0.000_176_776_68,
        3.428_102_4e-5,
        6.647_869_7e-6,
        1.289_173_2e-6,
    ];
    let inv_freq = Vec::<f32>::try_from(inv_freq(&config, 16, 64).unwrap()).unwrap();
    for (got, expected) in inv_freq.iter().zip(expected) {
        assert!(
            (got / expected - 1.0).abs() < 1e-6,
            "{got} is not {expected}"
        );
    }
    assert_eq!(inv_freq.len(), expected.len());
}

#[test]
fn linear_scaling_divides_every_frequency() {
    let config = RopeConfig {
        rope_theta: 100.0,
        scaling: RopeScaling::Linear { factor: 4.0 },
        partial_factor: None,
    };
    let expected = Tensor::from_slice(&[0.25_f32, 0.025]);
    assert_close("frequencies", &inv_freq(&config, 4, 64).unwrap(), &expected);
}

/// Of one position, for twice as many channels.
fn quarter_turn(n_angles: i64) -> Rotations {
    let right = std::f64::consts::FRAC_PI_2;
    let angles = Tensor::full([1, n_angles], right, (Kind::Float, Device::Cpu));
    Rotations::by(&angles, 1.0, Kind::Float).unwrap()
}

#[test]
fn a_quarter_turn_moves_the_halves() {
    let rotations = quarter_turn(2);
    let x = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]).view([1, 4]);
    let expected = Tensor::from_slice(&[-3.0_f32, -4.0, 1.0, 2.0]).view([1, 4]);
    assert_close("quarter turn", &rotations.apply(&x).unwrap(), &expected);
}

#[test]
fn channels_after_the_rotated_ones_stay() {
    let rotations = quarter_turn(1);
    let x = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]).view([1, 4]);
    let expected = Tensor::from_slice(&[-2.0_f32, 1.0, 3.0, 4.0]).view([1, 4]);
    assert_close("a half", &rotations.apply(&x).unwrap(), &expected);
}
