//! The gradients of layers that write to the same targets, against autograd through the sum.

use crate::{Activation, LayerPass, Objective, Penalty, Sae, SaeConfig, with_seed};
use tch::{Device, Kind, Tensor};

const D: i64 = 6;
const LATENTS: i64 = 30;
const K: usize = 5;

fn noise(shape: &[i64], seed: i64) -> Tensor {
    with_seed(seed, || Tensor::randn(shape, (Kind::Float, Device::Cpu)))
}

/// The first of two layers writes to both, the second to its own hookpoint.
fn layer(activation: Activation, layer: i64) -> Sae {
    let names = ["layers.0.mlp", "layers.1.mlp"].map(str::to_owned);
    let cfg = SaeConfig {
        activation,
        transcode: true,
        skip_connection: true,
        normalize_decoder: false,
        d_out: (layer == 0).then_some(2 * D as usize),
        hookpoints: names[layer as usize..].to_vec(),
        ..SaeConfig::topk(
            D as usize,
            LATENTS as usize,
            if activation.has_k() {
                K
            } else {
                LATENTS as usize
            },
        )
    };
    let mut sae = Sae::new(cfg, layer, Device::Cpu).unwrap();
    sae.w_dec = noise(&sae.w_dec.size(), 10 + layer);
    sae.encoder_bias = noise(&[LATENTS], 20 + layer) * 0.1;
    sae
}

fn objective(activation: Activation) -> Objective<'static> {
    let tanh = Penalty::Tanh {
        coefficient: 0.3,
        scale: 2.0,
    };
    Objective {
        penalty: match activation {
            Activation::Relu => tanh,
            _ => Penalty::None,
        },
        ..Objective::squared_error(K)
    }
}

/// What the layer writes, and its penalty, in operations that autograd knows.
fn written(sae: &Sae, x: &Tensor) -> (Tensor, Tensor) {
    let pre_acts = x.linear(&sae.encoder_weight, Some(&sae.encoder_bias));
    let acts = match sae.cfg.activation {
        Activation::TopK => {
            let (acts, indices) = pre_acts.topk(K as i64, -1, true, true);
            pre_acts.zeros_like().scatter(1, &indices, &acts.relu())
        }
        _ => pre_acts.relu(),
    };
    let later = sae.b_dec.size()[0] - D;
    let b_dec = sae.b_dec.narrow(0, 0, D).constant_pad_nd([0, later]);
    let w_skip = sae.w_skip.as_ref().unwrap().narrow(0, 0, D);
    let skip = x.matmul(&w_skip.tr()).constant_pad_nd([0, later]);
    let penalty = match sae.cfg.activation {
        Activation::Relu => {
            let norms = sae.w_dec.norm_scalaropt_dim(2.0, [1i64], false);
            (&acts * norms * 2.0).tanh().sum(Kind::Double) * 0.3
        }
        _ => Tensor::zeros([], (Kind::Double, Device::Cpu)),
    };
    (acts.matmul(&sae.w_dec) + b_dec + skip, penalty)
}

/// The same layers with weights that autograd follows, after `backward` of the loss.
fn by_autograd(saes: &[Sae; 2], xs: &[Tensor; 2], y: &Tensor) -> Vec<Vec<Tensor>> {
    let weights = saes.each_ref().map(|sae| {
        let weights = sae.named_weights().into_iter();
        let weights = weights.map(|(_, own)| own.detach().copy().set_requires_grad(true));
        weights.collect::<Vec<Tensor>>()
    });
    let outputs: Vec<_> = (0..2)
        .map(|layer| {
            let own = weights[layer].iter().map(Tensor::shallow_clone).collect();
            written(&saes[layer].with_weights(own), &xs[layer])
        })
        .collect();
    let sum = &outputs[0].0 + outputs[1].0.constant_pad_nd([D, 0]);
    let loss = (sum - y).square().sum(Kind::Double) + &outputs[0].1 + &outputs[1].1;
    loss.backward();
    weights
        .map(|own| own.iter().map(Tensor::grad).collect())
        .into()
}

/// The errors of what both layers write together, at the hookpoints of each.
fn errors(passes: &[LayerPass], y: &Tensor) -> [Tensor; 2] {
    let error = &passes[0].written - y;
    let second = error
        .narrow(1, D, D)
        .g_add_(&passes[1].written)
        .contiguous();
    [error, second]
}

#[test]
fn gradients_of_layers_are_those_of_autograd() {
    for activation in [Activation::TopK, Activation::Relu, Activation::JumpRelu] {
        let saes = [0, 1].map(|own| layer(activation, own));
        let xs = [1, 2].map(|seed| noise(&[40, D], seed));
        let y = noise(&[40, 2 * D], 3);
        let objective = objective(activation);
        let pass = |(sae, x): (&Sae, &Tensor)| sae.layer_pass(x, &objective).unwrap();
        let passes: Vec<_> = saes.iter().zip(&xs).map(pass).collect();
        let errors = errors(&passes, &y);
        let expected = by_autograd(&saes, &xs, &y);
        for (layer, pass) in passes.into_iter().enumerate() {
            let sae = &saes[layer];
            let backward = sae
                .layer_backward(pass, &errors[layer], &objective)
                .unwrap();
            let names = sae.named_weights().into_iter().map(|(name, _)| name);
            let ours = backward.gradients.tensors();
            for ((name, own), expected) in names.zip(ours).zip(&expected[layer]) {
                if name == "threshold" {
                    continue;
                }
                let off = (own - expected).abs().max().double_value(&[]);
                let size = expected.abs().max().double_value(&[]);
                let where_it_is = format!("{activation} {layer} {name}: {off} of {size}");
                assert!(off <= 1e-5 * size + 1e-6, "{where_it_is}");
            }
        }
    }
}
