//! A model as a list of its submodules: the one table from which hookpoints, tensor checks and
//! parameter counts come.

use plan::{HookpointFacts, ModelFacts};

/// Name of the head's weight, beside the base model.
pub(crate) const HEAD_WEIGHT: &str = "lm_head.weight";

/// What a submodule computes, as far as its parameters go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ModuleKind {
    /// A table of `n_rows` rows.
    Embedding { n_rows: usize },
    /// A matrix product, with or without bias.
    Linear { bias: bool },
    /// A weight for each channel.
    Norm,
    /// No parameters of its own: an activation function, or a module made of modules.
    Plain,
}

/// A submodule that runs once per forward pass and returns hidden states.
#[derive(Debug)]
pub(crate) struct Module {
    /// Name, widths and blocks needed.
    pub(crate) hookpoint: HookpointFacts,
    pub(crate) kind: ModuleKind,
}

/// A tensor that a model needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    /// Name within the base model: `layers.0.mlp.up_proj.weight`.
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

impl Module {
    /// The module's own parameters.
    pub(crate) fn tensors(&self) -> Vec<TensorSpec> {
        let HookpointFacts {
            name, d_in, d_out, ..
        } = &self.hookpoint;
        let spec = |parameter: &str, shape: Vec<usize>| TensorSpec {
            name: format!("{name}.{parameter}"),
            shape,
        };
        match (self.kind, d_in) {
            (ModuleKind::Embedding { n_rows }, _) => vec![spec("weight", vec![n_rows, *d_out])],
            (ModuleKind::Linear { bias }, Some(d_in)) => {
                let mut tensors = vec![spec("weight", vec![*d_out, *d_in])];
                tensors.extend(bias.then(|| spec("bias", vec![*d_out])));
                tensors
            }
            (ModuleKind::Norm, _) => vec![spec("weight", vec![*d_out])],
            (ModuleKind::Plain | ModuleKind::Linear { .. }, _) => Vec::new(),
        }
    }

    fn n_params(&self) -> u64 {
        let tensors = self.tensors();
        tensors
            .iter()
            .map(|tensor| tensor.shape.iter().map(|&n| n as u64).product::<u64>())
            .sum()
    }
}

/// A model as planning and loading see it.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) model_type: &'static str,
    pub(crate) n_layers: usize,
    pub(crate) hidden_size: usize,
    pub(crate) vocab_size: usize,
    /// Positions the position encoding was made for, in tokens.
    pub(crate) max_ctx_len: usize,
    /// Name of the list of blocks.
    pub(crate) layers_name: &'static str,
    /// Name of the token embedding.
    pub(crate) embedding_name: &'static str,
    /// What Hugging Face writes before the names of the base model's tensors, with the dot, when
    /// the head is saved with it.
    pub(crate) base_prefix: &'static str,
    /// Whether the head's weight is the embedding's.
    pub(crate) tied_head: bool,
    /// In the order of `named_modules()`.
    pub(crate) modules: Vec<Module>,
}

impl Layout {
    pub(crate) fn facts(&self) -> ModelFacts {
        let first_block = format!("{}.0.", self.layers_name);
        let n_params = |wanted: &dyn Fn(&str) -> bool| {
            let modules = self
                .modules
                .iter()
                .filter(|module| wanted(&module.hookpoint.name));
            modules.map(Module::n_params).sum()
        };
        ModelFacts {
            model_type: self.model_type.into(),
            n_layers: self.n_layers,
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
            max_ctx_len: self.max_ctx_len,
            embedding_params: n_params(&|name| name == self.embedding_name),
            layer_params: n_params(&|name| name.starts_with(&first_block)),
            layers_name: self.layers_name.into(),
            hookpoints: self
                .modules
                .iter()
                .map(|module| module.hookpoint.clone())
                .collect(),
        }
    }

    /// The base model's tensors that a forward pass over the first `n_layers` blocks needs.
    pub(crate) fn tensors(&self, n_layers: usize) -> Vec<TensorSpec> {
        let needed = self
            .modules
            .iter()
            .filter(|m| m.hookpoint.n_layers_needed <= n_layers);
        needed.flat_map(Module::tensors).collect()
    }
}

/// Collects the modules of a model in the order of `named_modules()`.
#[derive(Debug, Default)]
pub(crate) struct ModuleList {
    modules: Vec<Module>,
    n_layers_needed: usize,
}

impl ModuleList {
    /// The modules that follow run within or after so many blocks.
    pub(crate) fn within(&mut self, n_layers_needed: usize) {
        self.n_layers_needed = n_layers_needed;
    }

    pub(crate) fn embedding(&mut self, name: &str, n_rows: usize, d_out: usize) {
        self.push(name.into(), None, d_out, ModuleKind::Embedding { n_rows });
    }

    pub(crate) fn linear(&mut self, name: String, d_in: usize, d_out: usize, bias: bool) {
        self.push(name, Some(d_in), d_out, ModuleKind::Linear { bias });
    }

    pub(crate) fn norm(&mut self, name: String, d: usize) {
        self.push(name, Some(d), d, ModuleKind::Norm);
    }

    /// A module without parameters of its own, as wide out as in.
    pub(crate) fn plain(&mut self, name: String, d: usize) {
        self.push(name, Some(d), d, ModuleKind::Plain);
    }

    pub(crate) fn finish(self) -> Vec<Module> {
        self.modules
    }

    fn push(&mut self, name: String, d_in: Option<usize>, d_out: usize, kind: ModuleKind) {
        let hookpoint = HookpointFacts {
            name,
            d_in,
            d_out,
            n_layers_needed: self.n_layers_needed,
        };
        self.modules.push(Module { hookpoint, kind });
    }
}
