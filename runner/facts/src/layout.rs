//! A model as a list of its submodules: the one table from which hookpoints, tensor checks and
//! parameter counts come.

use plan::{HookpointFacts, ModelFacts, Vectors};

/// The weight of the head in most models, outside the base model.
pub(crate) const LM_HEAD: &str = "lm_head.weight";

/// Index of the weight among a module's tensors.
pub const WEIGHT: usize = 0;

/// Index of the bias among a module's tensors.
pub const BIAS: usize = 1;

/// What a submodule computes, as far as its parameters go.
#[derive(Clone, Copy, Debug)]
pub enum ModuleKind {
    /// A table.
    Embedding {
        /// Its rows.
        n_rows: usize,
    },
    /// A matrix product.
    Linear {
        /// Whether a bias is added.
        bias: bool,
    },
    /// A matrix product with bias whose weight is stored as `[d_in, d_out]`.
    Conv1d,
    /// A weight for each channel.
    Norm {
        /// Whether each channel is shifted too.
        bias: bool,
    },
    /// Has no parameters itself: an activation function, or a module made of modules.
    Plain,
}

/// A submodule that runs once per forward pass and returns hidden states.
#[derive(Debug)]
pub struct Module {
    /// Name, widths and blocks needed.
    pub hookpoint: HookpointFacts,
    /// What it computes.
    pub kind: ModuleKind,
}

/// A tensor that a model needs.
#[derive(Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name within the base model: `layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    fn n_elements(&self) -> u64 {
        // Saturating: a hostile config.json may name any widths.
        self.shape
            .iter()
            .fold(1, |n: u64, &width| n.saturating_mul(width as u64))
    }
}

impl Module {
    /// The module's own parameters: none, the [`WEIGHT`], or that and a [`BIAS`].
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let HookpointFacts {
            name, d_in, d_out, ..
        } = &self.hookpoint;
        let spec = |parameter: &str, shape: Vec<usize>| TensorSpec {
            name: format!("{name}.{parameter}"),
            shape,
        };
        let d_in = d_in.unwrap_or(*d_out);
        let (weight, bias) = match self.kind {
            ModuleKind::Embedding { n_rows } => (vec![n_rows, *d_out], false),
            ModuleKind::Linear { bias } => (vec![*d_out, d_in], bias),
            ModuleKind::Conv1d => (vec![d_in, *d_out], true),
            ModuleKind::Norm { bias } => (vec![*d_out], bias),
            ModuleKind::Plain => return Vec::new(),
        };
        let mut tensors = vec![spec("weight", weight)];
        tensors.extend(bias.then(|| spec("bias", vec![*d_out])));
        tensors
    }

    /// Whether it is a linear module, whose weight 8-bit loading quantises.
    pub fn is_product(&self) -> bool {
        matches!(self.kind, ModuleKind::Linear { .. } | ModuleKind::Conv1d)
    }

    fn n_params(&self) -> u64 {
        let tensors = self.tensors();
        let counts = tensors.iter().map(TensorSpec::n_elements);
        counts.fold(0, u64::saturating_add)
    }

    /// Parameters that 8-bit loading holds in one byte.
    fn n_8bit_params(&self) -> u64 {
        let weight = self.tensors().into_iter().find(|_| self.is_product());
        weight.map_or(0, |weight| weight.n_elements())
    }
}

/// A model that has another one as its text part, which alone is read.
#[derive(Debug, PartialEq, Eq)]
pub struct Within {
    /// What the names of the text part's tensors may begin with.
    pub text_prefixes: &'static [&'static str],
    /// Further names of the head's weight.
    pub head_names: &'static [&'static str],
    /// What the names of all other tensors begin with.
    pub other_parts: &'static [&'static str],
}

/// A model as planning and loading see it.
#[derive(Debug)]
pub struct Layout {
    /// Hugging Face's name of the family.
    pub model_type: &'static str,
    /// Number of blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Positions the position encoding was made for, in tokens.
    pub max_ctx_len: usize,
    /// Name of the list of blocks.
    pub layers_name: &'static str,
    /// Name of the token embedding.
    pub embedding_name: &'static str,
    /// Name of the norm that follows the last block.
    pub norm_name: &'static str,
    /// What Hugging Face writes before the names of the base model's tensors, with the dot, when
    /// the head is saved with it.
    pub base_prefix: &'static str,
    /// The larger model whose text part it is.
    pub within: Option<&'static Within>,
    /// Name of the head's weight, outside the base model.
    pub head_name: &'static str,
    /// Whether the head's weight is the embedding's.
    pub tied_head: bool,
    /// What logits are capped at: `cap tanh(logits / cap)`.
    pub logit_softcap: Option<f64>,
    /// In the order of `named_modules()`.
    pub modules: Vec<Module>,
}

impl Layout {
    /// What planning needs to know of the model.
    pub fn facts(&self) -> ModelFacts {
        let first_block = format!("{}.0.", self.layers_name);
        let modules = |wanted: &dyn Fn(&Module) -> bool, count: fn(&Module) -> u64| {
            let wanted = self.modules.iter().filter(|module| wanted(module));
            wanted.map(count).fold(0, u64::saturating_add)
        };
        let in_first = |module: &Module| module.hookpoint.name.starts_with(&first_block);
        let before_blocks = |module: &Module| module.hookpoint.n_layers_needed == 0;
        ModelFacts {
            model_type: self.model_type.into(),
            n_layers: self.n_layers,
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
            max_ctx_len: self.max_ctx_len,
            embedding_params: modules(&before_blocks, Module::n_params),
            layer_params: modules(&in_first, Module::n_params),
            layer_8bit_params: modules(&in_first, Module::n_8bit_params),
            layers_name: self.layers_name.into(),
            hookpoints: self
                .modules
                .iter()
                .map(|module| module.hookpoint.clone())
                .collect(),
        }
    }

    /// The blocks' names, in order.
    pub fn block_names(&self) -> impl Iterator<Item = String> {
        (0..self.n_layers).map(|layer_idx| self.block_name(layer_idx))
    }

    /// The name of a block.
    pub fn block_name(&self, layer_idx: usize) -> String {
        format!("{}.{layer_idx}", self.layers_name)
    }

    /// The base model's tensors that a forward pass over the first `n_layers` blocks needs.
    pub fn tensors(&self, n_layers: usize) -> Vec<TensorSpec> {
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
    /// The modules that follow run within or after `n_layers_needed` blocks.
    pub(crate) fn within(&mut self, n_layers_needed: usize) {
        self.n_layers_needed = n_layers_needed;
    }

    /// `d_out` wide rows of a table.
    pub(crate) fn embedding(&mut self, name: &str, n_rows: usize, d_out: usize) {
        self.push(name.into(), None, d_out, ModuleKind::Embedding { n_rows });
    }

    /// The same of positions.
    pub(crate) fn position_embedding(&mut self, name: &str, n_rows: usize, d_out: usize) {
        self.embedding(name, n_rows, d_out);
        self.gives(Vectors::Position);
    }

    pub(crate) fn linear(&mut self, name: String, d_in: usize, d_out: usize, bias: bool) {
        self.push(name, Some(d_in), d_out, ModuleKind::Linear { bias });
    }

    /// GPT-2's form of a linear module.
    pub(crate) fn conv1d(&mut self, name: String, d_in: usize, d_out: usize) {
        self.push(name, Some(d_in), d_out, ModuleKind::Conv1d);
    }

    pub(crate) fn rms_norm(&mut self, name: String, d: usize) {
        self.push(name, Some(d), d, ModuleKind::Norm { bias: false });
    }

    /// Of each head of width `d`.
    pub(crate) fn rms_norm_of_heads(&mut self, name: String, n_heads: usize, d: usize) {
        self.rms_norm(name, d);
        self.gives(Vectors::Heads(n_heads));
    }

    pub(crate) fn layer_norm(&mut self, name: String, d: usize) {
        self.push(name, Some(d), d, ModuleKind::Norm { bias: true });
    }

    /// A module that has no parameters itself, as wide out as in.
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
            vectors: Vectors::Token,
        };
        self.modules.push(Module { hookpoint, kind });
    }

    /// Says what the last module gives vectors for.
    fn gives(&mut self, vectors: Vectors) {
        if let Some(last) = self.modules.last_mut() {
            last.hookpoint.vectors = vectors;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::read_config;
    use crate::testing::TinyModel;
    use serde_json::json;

    /// The widths of SmolLM2-135M. A weight takes one byte instead of bfloat16's two, and each row a
    /// scale of four: `(576 + 4) / (2 * 576)` for the narrow modules.
    #[test]
    fn smollm2s_linear_weights_in_8_bit_take_little_more_than_half_of_bfloat16s() {
        let model = TinyModel::with_config(json!({
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "num_hidden_layers": 30,
            "head_dim": 64,
        }));
        let layout = read_config(model.dir()).unwrap().layout();
        let linear = layout.modules.iter().filter(|module| module.is_product());
        let (mut in_8bit, mut in_bf16) = (0, 0);
        for module in linear {
            in_8bit += module.n_8bit_params() + 4 * module.hookpoint.d_out as u64;
            in_bf16 += 2 * module.n_8bit_params();
        }
        assert_eq!(
            in_bf16,
            2 * 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576)
        );
        assert_eq!(
            in_8bit,
            in_bf16 / 2 + 30 * 4 * (3 * 576 + 2 * 192 + 2 * 1536)
        );
        assert!(
            in_8bit as f64 <= 0.6 * in_bf16 as f64,
            "{in_8bit} of {in_bf16}"
        );
    }
}
