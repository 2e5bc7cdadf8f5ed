//! From a model folder to the building blocks of a model: every tensor is looked up in the layout,
//! so a module cannot be built with a shape that was not checked.

use crate::int8::Int8Weight;
use crate::modules::ModuleId;
use crate::nn::{Activation, Dropout, Embedding, LayerNorm, Linear, LinearWeight, RmsNorm};
use crate::weights::load_tensor;
use crate::{LmError, LoadOptions};
use facts::{ActFn, BIAS, Layout, ModelConfig, ModuleKind, TensorSpec, WEIGHT, Weights};
use facts::{base_prefix, head_names, head_spec, prefixed};
use plan::HookpointFacts;
use std::collections::HashMap;
use std::path::Path;
use tch::{Device, Kind, TchError, Tensor};

/// The first tensor of the first `n_layers` blocks, or of the head, that has NaN or infinity as `kind`. The
/// files are read again, a tensor at a time.
pub(crate) fn first_not_finite(
    model_dir: &Path,
    config: &ModelConfig,
    (n_layers, with_head): (usize, bool),
    kind: Kind,
) -> Result<Option<String>, LmError> {
    let layout = config.layout();
    let mut weights = Weights::open(model_dir)?;
    let prefix = base_prefix(&weights, &layout);
    let base = layout.tensors(n_layers).into_iter();
    let mut specs: Vec<_> = base.map(|spec| prefixed(prefix, spec)).collect();
    let head = head_names(&layout).find(|name| with_head && weights.has(name));
    specs.extend(head.map(|name| head_spec(&layout, Some(name))));
    for spec in specs {
        let weight = load_tensor(&mut weights, &spec, Device::Cpu, kind)?;
        let is_finite = is_finite(&weight);
        if !is_finite
            .map_err(|source| LmError::torch(format!("checking `{}`", spec.name), source))?
        {
            return Ok(Some(spec.name));
        }
    }
    Ok(None)
}

/// Part by part: libtorch allocates another number for each.
fn is_finite(weight: &Tensor) -> Result<bool, TchError> {
    const NUMBERS_AT_ONCE: i64 = 1 << 20;
    for part in weight.f_flatten(0, -1)?.f_split(NUMBERS_AT_ONCE, 0)? {
        if part.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Builds modules by name.
pub(crate) struct Loader<'a> {
    layout: &'a Layout,
    weights: Weights,
    prefix: &'static str,
    ids: HashMap<&'a str, ModuleId>,
    device: Device,
    kind: Kind,
    in_8bit: bool,
    n_layers: usize,
    /// The table of the token embedding, once it is loaded.
    token_table: Option<Tensor>,
    /// Memory of the linear modules' weights loaded so far.
    linear_bytes: u64,
}

impl<'a> Loader<'a> {
    /// `kind`: what the model computes in.
    pub(crate) fn open(
        model_dir: &Path,
        layout: &'a Layout,
        options: &LoadOptions,
        kind: Kind,
    ) -> Result<Self, LmError> {
        let weights = Weights::open(model_dir)?;
        let names = layout
            .modules
            .iter()
            .map(|module| module.hookpoint.name.as_str());
        Ok(Self {
            prefix: base_prefix(&weights, layout),
            weights,
            ids: names
                .enumerate()
                .map(|(index, name)| (name, ModuleId(index)))
                .collect(),
            layout,
            device: options.device,
            kind,
            in_8bit: options.load_in_8bit,
            n_layers: options.n_layers_of(layout.n_layers)?,
            token_table: None,
            linear_bytes: 0,
        })
    }

    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Memory of the weights of all linear modules loaded so far, in bytes.
    pub(crate) fn linear_bytes(&self) -> u64 {
        self.linear_bytes
    }

    /// How many blocks to load.
    pub(crate) fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// Whether all blocks are loaded, hence what follows them too.
    pub(crate) fn is_whole(&self) -> bool {
        self.n_layers == self.layout.n_layers
    }

    pub(crate) fn block_name(&self, layer_idx: usize) -> String {
        self.layout.block_name(layer_idx)
    }

    pub(crate) fn id(&self, name: &str) -> ModuleId {
        *self
            .ids
            .get(name)
            .expect("the layout lists every module that the model is built of")
    }

    /// A table, with `scale` its rows multiplied by that when they are read.
    pub(crate) fn embedding(
        &mut self,
        name: &str,
        scale: Option<f64>,
    ) -> Result<Embedding, LmError> {
        let weight = self.weight(name)?;
        if name == self.layout.embedding_name {
            self.token_table = Some(weight.shallow_clone());
        }
        let rounded = |scale: f64| {
            Tensor::from(scale)
                .f_to_device(self.device)?
                .f_to_kind(self.kind)
        };
        let scale = scale.map(rounded).transpose();
        Ok(Embedding {
            id: self.id(name),
            weight,
            scale: scale.map_err(|source| loading(name, source))?,
        })
    }

    pub(crate) fn linear(&mut self, name: &str) -> Result<Linear, LmError> {
        let bias = self.bias(name)?;
        // The choice of transformers with bitsandbytes: all linear modules but the head are quantised.
        let weight = if self.in_8bit {
            LinearWeight::Int8(self.int8_weight(name)?)
        } else {
            LinearWeight::Full(self.matrix(name)?)
        };
        self.linear_bytes += weight.n_bytes();
        Ok(Linear {
            id: self.id(name),
            weight,
            bias,
        })
    }

    /// The quantised weight of a linear module. What is kept is allocated before what is freed, so that
    /// the room of the full-precision weight is free in one piece afterwards. In the other order the
    /// heap of the C library, which aligns every tensor, could not use it for the next one: a model
    /// in 8 bit was seen to take as much as one in full precision.
    fn int8_weight(&mut self, name: &str) -> Result<Int8Weight, LmError> {
        // The room is as large as config.json says, which the file may contradict.
        let spec = self.weight_spec(name);
        self.weights.check(&spec)?;
        let HookpointFacts { d_in, d_out, .. } = self.layout.modules[self.id(name).0].hookpoint;
        let d_in = d_in.expect("a linear module has an input");
        let failed = |source| loading(name, source);
        let room = Int8Weight::room(d_out as i64, d_in as i64, self.device);
        let mut quantised = room.map_err(failed)?;
        quantised.fill(&self.matrix(name)?).map_err(failed)?;
        Ok(quantised)
    }

    /// The weight of a linear module in full precision: `[d_out, d_in]`.
    fn matrix(&mut self, name: &str) -> Result<Tensor, LmError> {
        let weight = self.weight(name)?;
        match self.layout.modules[self.id(name).0].kind {
            ModuleKind::Conv1d => weight
                .f_transpose(0, 1)
                .map_err(|source| loading(name, source)),
            _ => Ok(weight),
        }
    }

    pub(crate) fn rms_norm(&mut self, name: &str, eps: f64) -> Result<RmsNorm, LmError> {
        Ok(RmsNorm {
            id: self.id(name),
            weight: self.weight(name)?,
            eps,
        })
    }

    pub(crate) fn layer_norm(&mut self, name: &str, eps: f64) -> Result<LayerNorm, LmError> {
        let bias = self.bias(name)?;
        Ok(LayerNorm {
            id: self.id(name),
            weight: self.weight(name)?,
            bias: bias.expect("the layout gives layer norms a bias"),
            eps,
        })
    }

    pub(crate) fn activation(&self, name: &str, act_fn: ActFn) -> Activation {
        Activation {
            id: self.id(name),
            act_fn,
        }
    }

    pub(crate) fn dropout(&self, name: &str) -> Dropout {
        Dropout { id: self.id(name) }
    }

    /// The head's weight: `[vocab_size, hidden_size]`. If the file has none and it is tied, that of
    /// the embedding, which is loaded before, without a copy. As in transformers, a head that is in
    /// the file counts, tied or not.
    pub(crate) fn head(&mut self) -> Result<Tensor, LmError> {
        let in_file = head_names(self.layout).find(|name| self.weights.has(name));
        match (&self.token_table, in_file) {
            (Some(table), None) if self.layout.tied_head => Ok(table.shallow_clone()),
            _ => {
                let spec = head_spec(self.layout, in_file);
                self.tensor(&spec).map_err(LmError::of_head)
            }
        }
    }

    /// The weight of the module called `name`.
    fn weight(&mut self, name: &str) -> Result<Tensor, LmError> {
        let spec = self.weight_spec(name);
        self.tensor(&spec)
    }

    fn tensor(&mut self, spec: &TensorSpec) -> Result<Tensor, LmError> {
        load_tensor(&mut self.weights, spec, self.device, self.kind)
    }

    fn weight_spec(&self, name: &str) -> TensorSpec {
        let mut specs = self.layout.modules[self.id(name).0].tensors();
        prefixed(self.prefix, specs.swap_remove(WEIGHT))
    }

    /// The bias of the module called `name`, if it has one.
    fn bias(&mut self, name: &str) -> Result<Option<Tensor>, LmError> {
        let specs = self.layout.modules[self.id(name).0].tensors();
        let bias = specs.into_iter().nth(BIAS);
        bias.map(|spec| {
            let spec = prefixed(self.prefix, spec);
            self.tensor(&spec)
        })
        .transpose()
    }
}

fn loading(module: &str, source: TchError) -> LmError {
    LmError::torch(format!("loading the module `{module}`"), source)
}

#[cfg(test)]
mod tests;
