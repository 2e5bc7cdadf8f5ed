//! The layer against bitsandbytes: `tests/fixtures/int8`.

use super::tests::dequantised;
use super::{HasMany, Int8Weight, OutlierCounts, Product, SplitInput};
use crate::testing::{fixtures, test_device, wide};
use std::collections::HashMap;
use tch::{Kind, Tensor};

fn norm(x: &Tensor) -> f64 {
    wide(x).norm().double_value(&[])
}

fn worst_excess(got: &Tensor, expected: &Tensor, tolerance: &Tensor) -> f64 {
    let error = (wide(got) - wide(expected)).abs();
    (error - wide(tolerance)).max().double_value(&[])
}

/// One layer of `int8/golden.safetensors`.
struct Golden {
    name: String,
    tensors: HashMap<String, Tensor>,
    weight: Int8Weight,
}

impl Golden {
    fn read_all() -> Vec<Self> {
        let path = fixtures().join("int8/golden.safetensors");
        let mut cases: HashMap<String, HashMap<String, Tensor>> = HashMap::new();
        for (key, tensor) in Tensor::read_safetensors(path).unwrap() {
            let (case, name) = key.split_once('/').unwrap();
            let case = cases.entry(case.into()).or_default();
            case.insert(name.into(), tensor.to_device(test_device()));
        }
        assert_eq!(cases.len(), 15);
        let case = |(name, tensors): (String, HashMap<String, Tensor>)| Self {
            weight: Int8Weight::quantise(&tensors["weight"]).unwrap(),
            name,
            tensors,
        };
        cases.into_iter().map(case).collect()
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    /// As a matrix.
    fn x(&self) -> Tensor {
        let d_in = self.weight.values.size()[1];
        self.get("x").reshape([-1, d_in])
    }

    fn bias(&self) -> Option<&Tensor> {
        self.tensors.get("bias")
    }

    /// Of `x`, with the columns with outliers counted, and without.
    fn outputs_of(&self, x: &Tensor) -> [Tensor; 2] {
        let counted = self.weight.counted(x, self.bias()).unwrap();
        let mut counts = OutlierCounts::noted();
        let mut noted = self.weight.linear(x, self.bias(), &mut counts).unwrap();
        if !counts.were_enough().unwrap() {
            noted = self.weight.linear(x, self.bias(), &mut counts).unwrap();
            assert!(counts.were_enough().unwrap());
        }
        [counted, noted]
    }

    fn outputs(&self) -> [Tensor; 2] {
        self.outputs_of(self.get("x"))
    }

    /// With the columns with outliers counted.
    fn split(&self) -> SplitInput {
        let (has_many, mut counts) = (HasMany::default(), OutlierCounts::default());
        let product = Product::of(test_device());
        SplitInput::new(&self.x(), product, &has_many, &mut counts).unwrap()
    }

    /// The distance of a number from the next in the kind of `x`, relative, at most.
    fn epsilon(&self) -> f64 {
        match self.get("x").kind() {
            Kind::Float => f64::from(f32::EPSILON),
            Kind::Half => 1.0 / 1024.0,
            Kind::BFloat16 => 1.0 / 128.0,
            kind => panic!("{kind:?}"),
        }
    }
}

#[test]
fn quantised_as_in_bitsandbytes() {
    for case in Golden::read_all() {
        let (name, weight) = (&case.name, &case.weight);
        let split = case.split();
        assert_eq!(&weight.values, case.get("weight_int8"), "{name}");
        assert_eq!(&weight.absmax, case.get("weight_absmax"), "{name}");
        assert_eq!(
            &split.outlier_cols.indices,
            case.get("outlier_cols"),
            "{name}"
        );
    }
}

/// With the constant of bitsandbytes, every difference is one of rounding, which grows with the
/// parts of the output: float32 is rounded a dozen times at most on either side, by half an
/// epsilon of the parts. In the 16-bit kinds the parts, the dequantised columns and the output
/// are each rounded to that kind, and there the least difference can decide on the neighbour.
#[test]
fn outputs_as_in_bitsandbytes() {
    for case in Golden::read_all() {
        let split = case.split();
        let int8 = case.weight.int8_product(&split).unwrap();
        let columns = |x: Tensor| x.index_select(1, &split.outlier_cols.indices).abs();
        let outliers = columns(case.x().to_kind(Kind::Float))
            .matmul(&columns(dequantised(&case.weight, Kind::Float)).tr());
        let mut parts = int8.abs() + outliers;
        if let Some(bias) = case.bias() {
            parts += bias.abs();
        }
        let n_roundings = if case.get("x").kind() == Kind::Float {
            12.0
        } else {
            3.0
        };
        let tolerance = (parts * (n_roundings * case.epsilon())).view_as(case.get("y"));
        let other_constant = int8.view_as(case.get("y")) * (6.200124e-5 * 127.0 * 127.0 - 1.0);
        for output in case.outputs() {
            let got = output.to_kind(Kind::Float) + &other_constant;
            let excess = worst_excess(&got, case.get("y"), &tolerance);
            assert!(excess <= 0.0, "{}: {excess:e}", case.name);
        }
    }
}

/// The tolerances above would let a float layer pass in bfloat16.
#[test]
fn nearer_to_bitsandbytes_than_a_float_layer_is() {
    for case in Golden::read_all() {
        let wide = |name: &str| case.get(name).to_kind(Kind::Float);
        let bias = case.bias().map(|bias| bias.to_kind(Kind::Float));
        let float = wide("x").linear(&wide("weight"), bias.as_ref());
        let float_error = norm(&(float - wide("y")));
        for output in case.outputs() {
            let error = norm(&(output.to_kind(Kind::Float) - wide("y")));
            assert!(error <= 0.05 * float_error, "{}: {error:e}", case.name);
        }
    }
}

/// One product in float32 over 27 outputs, rounded to the kind of `x`.
#[test]
fn gradients_as_in_bitsandbytes() {
    for case in Golden::read_all() {
        let x = case.get("x").copy().set_requires_grad(true);
        let y_grad = case.get("y_grad").to_kind(Kind::Float).abs();
        let parts = y_grad.matmul(&dequantised(&case.weight, Kind::Float).abs());
        let n_roundings = if x.kind() == Kind::Float { 27.0 } else { 1.0 };
        let tolerance = parts * (n_roundings * case.epsilon());
        for output in case.outputs_of(&x) {
            let loss = (output * case.get("y_grad")).sum(x.kind());
            let got = Tensor::run_backward(&[loss], &[&x], false, false).remove(0);
            assert_eq!(got.kind(), x.kind());
            let excess = worst_excess(&got, case.get("x_grad"), &tolerance);
            assert!(excess <= 0.0, "{}: {excess:e}", case.name);
        }
    }
}
