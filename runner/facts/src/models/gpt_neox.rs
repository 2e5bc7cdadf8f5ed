//! What config.json says of a GPT-NeoX (Black et al. 2022; Pythia too).

use crate::FactsError;
use crate::act_fn::ActFn;
use crate::config::ConfigFile;
use crate::layout::{Layout, ModuleList};
use crate::rope::RopeConfig;

/// What config.json says of a GPT-NeoX; names as there.
#[derive(Clone, Debug, PartialEq)]
pub struct GptNeoxConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Channels of a head that are rotated.
    pub rotary_dim: usize,
    /// The rotary embedding.
    pub rope: RopeConfig,
    /// Activation function of the MLP; by default GELU.
    pub hidden_act: ActFn,
    /// Longest context, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the variance before the root; by default 1e-5.
    pub layer_norm_eps: f64,
    /// Whether attention and MLP both read the block's input; by default they do.
    pub use_parallel_residual: bool,
    /// Whether the projections of the attention have biases; by default they have.
    pub attention_bias: bool,
    /// Whether the head's weight is the embedding's; by default not.
    pub tie_word_embeddings: bool,
}

impl GptNeoxConfig {
    /// `model_type` = `gpt_neox`.
    pub(crate) fn read(file: &ConfigFile) -> Result<Self, FactsError> {
        let hidden_size = file.required_count("hidden_size")?;
        let n_heads = file.required_count("num_attention_heads")?;
        let head_dim =
            file.head_dim_of("hidden_size", hidden_size, "num_attention_heads", n_heads)?;
        if let Some(given) = file.count("head_dim")?.filter(|given| *given != head_dim) {
            let problem = format!("is {given}, but `hidden_size` and the heads give {head_dim}");
            return Err(file.bad("head_dim", problem));
        }
        let max_position_embeddings = file.required_count("max_position_embeddings")?;
        // `rope_theta` has no effect in transformers.
        let theta_keys = ["rotary_emb_base", "rope_theta"];
        let rope = RopeConfig::read(file, &theta_keys, max_position_embeddings)?;
        Ok(Self {
            vocab_size: file.required_count("vocab_size")?,
            hidden_size,
            intermediate_size: file.required_count("intermediate_size")?,
            num_hidden_layers: file.n_layers("num_hidden_layers")?,
            head_dim,
            rotary_dim: read_rotary_dim(file, &rope, head_dim)?,
            rope,
            hidden_act: ActFn::read(file, "hidden_act", ActFn::Gelu)?,
            max_position_embeddings,
            layer_norm_eps: file.positive("layer_norm_eps")?.unwrap_or(1e-5),
            use_parallel_residual: file.bool("use_parallel_residual", true)?,
            attention_bias: file.bool("attention_bias", true)?,
            tie_word_embeddings: file.bool("tie_word_embeddings", false)?,
        })
    }

    pub(crate) fn layout(&self) -> Layout {
        let mut modules = ModuleList::default();
        modules.embedding("embed_in", self.vocab_size, self.hidden_size);
        modules.plain("emb_dropout".into(), self.hidden_size);
        for layer_idx in 0..self.num_hidden_layers {
            modules.within(layer_idx + 1);
            self.list_block(&mut modules, &block_name(layer_idx));
        }
        modules.layer_norm("final_layer_norm".into(), self.hidden_size);
        Layout {
            model_type: "gpt_neox",
            n_layers: self.num_hidden_layers,
            hidden_size: self.hidden_size,
            vocab_size: self.vocab_size,
            max_ctx_len: self.rope.max_ctx_len(self.max_position_embeddings),
            layers_name: "layers",
            embedding_name: "embed_in",
            norm_name: "final_layer_norm",
            base_prefix: "gpt_neox.",
            within: None,
            head_name: "embed_out.weight",
            tied_head: self.tie_word_embeddings,
            logit_softcap: None,
            modules: modules.finish(),
        }
    }

    fn list_block(&self, modules: &mut ModuleList, block: &str) {
        let (d, d_mlp) = (self.hidden_size, self.intermediate_size);
        let bias = self.attention_bias;
        modules.plain(block.into(), d);
        modules.layer_norm(format!("{block}.input_layernorm"), d);
        modules.layer_norm(format!("{block}.post_attention_layernorm"), d);
        modules.plain(format!("{block}.post_attention_dropout"), d);
        modules.plain(format!("{block}.post_mlp_dropout"), d);
        modules.plain(format!("{block}.attention"), d);
        modules.linear(format!("{block}.attention.query_key_value"), d, 3 * d, bias);
        modules.linear(format!("{block}.attention.dense"), d, d, bias);
        modules.plain(format!("{block}.mlp"), d);
        modules.linear(format!("{block}.mlp.dense_h_to_4h"), d, d_mlp, true);
        modules.linear(format!("{block}.mlp.dense_4h_to_h"), d_mlp, d, true);
        modules.plain(format!("{block}.mlp.act"), d_mlp);
    }
}

/// `partial_rotary_factor` of the rope parameters, where transformers 5 keeps it, or the older
/// `rotary_pct`; by default a quarter of the head. `partial_rotary_factor` next to them has no effect in
/// transformers.
fn read_rotary_dim(
    file: &ConfigFile,
    rope: &RopeConfig,
    head_dim: usize,
) -> Result<usize, FactsError> {
    let (key, fraction) = match (rope.partial_factor, file.positive("rotary_pct")?) {
        (Some(fraction), _) => ("partial_rotary_factor", fraction),
        (None, older) => ("rotary_pct", older.unwrap_or(0.25)),
    };
    for other in ["rotary_pct", "partial_rotary_factor"] {
        if let Some(outer) = file.positive(other)?.filter(|outer| *outer != fraction) {
            let problem = format!("is {outer}, but `{key}`, which counts, is {fraction}");
            return Err(file.bad(other, problem));
        }
    }
    let rotary_dim = (head_dim as f64 * fraction) as usize;
    if (2..=head_dim).contains(&rotary_dim) && rotary_dim.is_multiple_of(2) {
        return Ok(rotary_dim);
    }
    let problem = format!(
        "is {fraction}, which rotates {rotary_dim} of {head_dim} channels: rotary embeddings need pairs"
    );
    Err(file.bad(key, problem))
}

fn block_name(layer_idx: usize) -> String {
    format!("layers.{layer_idx}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TinyModel;
    use crate::testing::is_about;
    use serde_json::{Value, json};

    /// Of a tiny Llama's heads of 8 channels.
    fn read(changes: Value) -> Result<GptNeoxConfig, FactsError> {
        let model = TinyModel::with_config(changes);
        GptNeoxConfig::read(&ConfigFile::read(model.dir())?)
    }

    #[test]
    fn keys_of_which_one_counts_must_agree() {
        for (changes, named) in [
            (json!({"rope_theta": 5.0}), "rope_theta"),
            (json!({"rotary_emb_base": 5}), "rotary_emb_base"),
            (
                json!({"partial_rotary_factor": 0.5}),
                "partial_rotary_factor",
            ),
            (
                json!({"rotary_pct": 1, "rope_parameters": {"partial_rotary_factor": 0.5}}),
                "rotary_pct",
            ),
            (json!({"head_dim": 6}), "head_dim"),
        ] {
            let error = read(changes).unwrap_err();
            assert!(is_about(&error, named), "{error:?}");
        }
        // As transformers 4 wrote them.
        let older = json!({"rope_parameters": null, "rope_theta": 5, "rotary_emb_base": 5,
            "rotary_pct": 0.5, "partial_rotary_factor": 0.5, "head_dim": 8});
        let config = read(older).unwrap();
        assert_eq!((config.rope.rope_theta, config.rotary_dim), (5.0, 4));
    }
}
