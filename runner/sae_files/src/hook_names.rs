//! Where an SAE was trained, by the names that other tools have for it.

use plan::{HookpointFacts, ModelFacts};

/// Modules whose output is the attention's, as model families call them.
const ATTENTION: [&str; 3] = ["self_attn", "attention", "attn"];

/// The hookpoint of a model that `name` means: Hugging Face's own name, that name after what the whole
/// model calls its base (`model.layers.3`), or TransformerLens's for the residual stream and for what
/// MLPs and attention add to it (`blocks.3.hook_resid_post`). `None` if the model has none, or it is
/// not known to be the same.
pub fn resolve_hookpoint<'a>(facts: &'a ModelFacts, name: &str) -> Option<&'a HookpointFacts> {
    let mut rest = name;
    loop {
        if let Some(hookpoint) = facts.hookpoint(rest) {
            return Some(hookpoint);
        }
        match rest.split_once('.') {
            Some((_, behind)) => rest = behind,
            None => return of_transformer_lens(facts, name),
        }
    }
}

/// TransformerLens's name of a hookpoint; `None` if it has none that is known to be the same.
pub fn transformer_lens_name(facts: &ModelFacts, hookpoint: &str) -> Option<String> {
    let block = hookpoint.strip_prefix(&facts.layers_name)?;
    let layer = block.strip_prefix('.')?.split('.').next()?;
    ["hook_resid_post", "hook_mlp_out", "hook_attn_out"]
        .map(|hook| format!("blocks.{layer}.{hook}"))
        .into_iter()
        .find(|name| {
            let same = of_transformer_lens(facts, name);
            same.is_some_and(|same| same.name == hookpoint)
        })
}

fn of_transformer_lens<'a>(facts: &'a ModelFacts, name: &str) -> Option<&'a HookpointFacts> {
    let (layer, hook) = name.strip_prefix("blocks.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let block = |layer| format!("{}.{layer}", facts.layers_name);
    let part = |name: &str| facts.hookpoint(&format!("{}.{name}", block(layer)));
    // Gemma 2 and 3 norm what a part gives before it is added, and TransformerLens means what is added.
    let has_post_norms = part("pre_feedforward_layernorm").is_some();
    match (hook, has_post_norms) {
        ("hook_resid_post", _) => facts.hookpoint(&block(layer)),
        // In front of the first block, models do different things to the embedding.
        ("hook_resid_pre", _) => facts.hookpoint(&block(layer.checked_sub(1)?)),
        ("hook_mlp_out", true) => part("post_feedforward_layernorm"),
        ("hook_mlp_out", false) => part("mlp"),
        ("hook_attn_out", true) => part("post_attention_layernorm"),
        ("hook_attn_out", false) => ATTENTION.into_iter().find_map(part),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::Vectors;

    fn facts(layers_name: &str, names: &[&str]) -> ModelFacts {
        let hookpoint = |name: &&str| HookpointFacts {
            name: (*name).into(),
            d_in: Some(8),
            d_out: 8,
            n_layers_needed: 1,
            vectors: Vectors::Token,
        };
        ModelFacts {
            model_type: "x".into(),
            n_layers: 2,
            hidden_size: 8,
            vocab_size: 10,
            max_ctx_len: 16,
            embedding_params: 0,
            layer_params: 0,
            layer_8bit_params: 0,
            layers_name: layers_name.into(),
            hookpoints: names.iter().map(hookpoint).collect(),
        }
    }

    fn resolved(facts: &ModelFacts, name: &str) -> Option<String> {
        resolve_hookpoint(facts, name).map(|hookpoint| hookpoint.name.clone())
    }

    #[test]
    fn names_of_other_tools_are_hookpoints() {
        let llama = facts(
            "layers",
            &["layers.0", "layers.1", "layers.1.mlp", "layers.1.self_attn"],
        );
        for (name, expected) in [
            ("layers.1.mlp", Some("layers.1.mlp")),
            ("model.layers.1", Some("layers.1")),
            ("blocks.1.hook_resid_post", Some("layers.1")),
            ("blocks.1.hook_resid_pre", Some("layers.0")),
            ("blocks.0.hook_resid_pre", None),
            ("blocks.1.hook_mlp_out", Some("layers.1.mlp")),
            ("blocks.1.hook_attn_out", Some("layers.1.self_attn")),
            ("blocks.1.attn.hook_z", None),
            ("blocks.7.hook_resid_post", None),
            ("", None),
        ] {
            assert_eq!(resolved(&llama, name).as_deref(), expected, "{name}");
        }
        let name = |hookpoint| transformer_lens_name(&llama, hookpoint);
        assert_eq!(
            name("layers.1").as_deref(),
            Some("blocks.1.hook_resid_post")
        );
        assert_eq!(
            name("layers.1.mlp").as_deref(),
            Some("blocks.1.hook_mlp_out")
        );
        assert_eq!(name("layers.1.mlp.up_proj"), None);
        assert_eq!(name("norm"), None);
    }

    #[test]
    fn what_is_added_to_the_stream_is_after_the_norm() {
        let names = [
            "layers.0.mlp",
            "layers.0.pre_feedforward_layernorm",
            "layers.0.post_feedforward_layernorm",
        ];
        let gemma = facts("layers", &names);
        let behind = "layers.0.post_feedforward_layernorm";
        assert_eq!(
            resolved(&gemma, "blocks.0.hook_mlp_out").as_deref(),
            Some(behind)
        );
        assert_eq!(transformer_lens_name(&gemma, "layers.0.mlp"), None);
        assert!(transformer_lens_name(&gemma, behind).is_some());
    }
}
