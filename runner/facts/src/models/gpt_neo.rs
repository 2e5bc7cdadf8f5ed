//! What config.json says of a GPT-Neo (Black et al. 2021; TinyStories too).

use crate::FactsError;
use crate::act_fn::ActFn;
use crate::config::ConfigFile;
use crate::gpt::GptConfig;
use crate::layout::{Layout, ModuleList};
use serde_json::Value;

/// What config.json says of a GPT-Neo; names as there.
#[derive(Clone, Debug, PartialEq)]
pub struct GptNeoConfig {
    /// What it shares with GPT-2.
    pub common: GptConfig,
    /// Width of a head.
    pub head_dim: usize,
    /// For each block how many positions a query sees; `None`: all earlier ones.
    pub windows: Vec<Option<usize>>,
}

impl GptNeoConfig {
    /// `model_type` = `gpt_neo`.
    pub(crate) fn read(file: &ConfigFile) -> Result<Self, FactsError> {
        let hidden_size = file.count("hidden_size")?.unwrap_or(2048);
        let num_heads = file.count("num_heads")?.unwrap_or(16);
        let windows = read_windows(file)?;
        let common = GptConfig {
            model_type: "gpt_neo",
            vocab_size: file.count("vocab_size")?.unwrap_or(50257),
            n_positions: file.count("max_position_embeddings")?.unwrap_or(2048),
            hidden_size,
            n_layers: windows.len(),
            d_mlp: file.count("intermediate_size")?.unwrap_or(4 * hidden_size),
            mlp_is_conv1d: false,
            act_fn: ActFn::read(file, "activation_function", ActFn::GeluNew)?,
            layer_norm_epsilon: file.positive("layer_norm_epsilon")?.unwrap_or(1e-5),
            tie_word_embeddings: file.bool("tie_word_embeddings", true)?,
        };
        Ok(Self {
            common,
            head_dim: file.head_dim_of("hidden_size", hidden_size, "num_heads", num_heads)?,
            windows,
        })
    }

    pub(crate) fn layout(&self) -> Layout {
        self.common
            .layout(|modules, name| self.list_attention(modules, name))
    }

    fn list_attention(&self, modules: &mut ModuleList, name: &str) {
        let d = self.common.hidden_size;
        let inner = format!("{name}.attention");
        modules.plain(name.into(), d);
        modules.plain(inner.clone(), d);
        modules.plain(format!("{inner}.resid_dropout"), d);
        modules.linear(format!("{inner}.k_proj"), d, d, false);
        modules.linear(format!("{inner}.v_proj"), d, d, false);
        modules.linear(format!("{inner}.q_proj"), d, d, false);
        modules.linear(format!("{inner}.out_proj"), d, d, true);
    }
}

/// `attention_layers`, the kind of each block, or `attention_types`, such as
/// `[[["global", "local"], 12]]`: the list of kinds, twelve times over.
fn read_windows(file: &ConfigFile) -> Result<Vec<Option<usize>>, FactsError> {
    let n_layers = file.n_layers_or("num_layers", 24)?;
    let window = file.count("window_size")?.unwrap_or(256);
    let listed = file.strings("attention_layers")?;
    let listed: Option<Vec<_>> = listed.map(|kinds| kinds.into_iter().map(str::to_owned).collect());
    let (key, kinds) = match listed {
        Some(kinds) => ("attention_layers", kinds),
        None => ("attention_types", expand_types(file, n_layers)?),
    };
    let is_twofold = key == "attention_layers" && file.value("attention_types").is_some();
    if is_twofold && expand_types(file, n_layers)? != kinds {
        let problem = "contradicts `attention_types`: keep one of the two";
        return Err(file.bad(key, problem.into()));
    }
    if kinds.len() != n_layers {
        let n_kinds = kinds.len();
        let n_layers_key = file.written("num_layers");
        let problem = format!("gives {n_kinds} blocks, but `{n_layers_key}` is {n_layers}");
        return Err(file.bad(key, problem));
    }
    let window_of = |kind: &String| match kind.as_str() {
        "global" => Ok(None),
        "local" => Ok(Some(window)),
        other => Err(file.unsupported(key, other, ["global", "local"])),
    };
    kinds.iter().map(window_of).collect()
}

fn expand_types(file: &ConfigFile, n_layers: usize) -> Result<Vec<String>, FactsError> {
    let key = "attention_types";
    let default = || serde_json::json!([[["global", "local"], 12]]);
    let value: Value = file.value(key).cloned().unwrap_or_else(default);
    let types: Vec<(Vec<String>, u64)> = serde_json::from_value(value).map_err(|error| {
        let problem = format!("must be a list of pairs of a list of kinds and a count: {error}");
        file.bad(key, problem)
    })?;
    // One more than there may be is enough to be reported.
    let repeated = |(kinds, count): (Vec<String>, u64)| {
        let count = if kinds.is_empty() {
            0
        } else {
            count.min(n_layers as u64 + 1)
        };
        (0..count).flat_map(move |_| kinds.clone())
    };
    Ok(types
        .into_iter()
        .flat_map(repeated)
        .take(n_layers + 1)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TinyModel;
    use crate::testing::is_about;
    use serde_json::json;

    fn windows(changes: Value) -> Result<Vec<Option<usize>>, FactsError> {
        read_windows(&ConfigFile::read(TinyModel::with_config(changes).dir())?)
    }

    #[test]
    fn which_blocks_are_local() {
        let twice = json!({"num_layers": 4, "attention_types": [[["global", "local"], 2]]});
        assert_eq!(windows(twice).unwrap(), [None, Some(256), None, Some(256)]);
        let listed =
            json!({"num_layers": 2, "window_size": 5, "attention_layers": ["local", "global"]});
        assert_eq!(windows(listed).unwrap(), [Some(5), None]);
        assert_eq!(windows(json!({})).unwrap().len(), 24);
    }

    #[test]
    fn the_two_forms_must_agree() {
        let both = |types| {
            windows(
                json!({"num_layers": 2, "attention_layers": ["local", "global"],
                "attention_types": types}),
            )
        };
        assert_eq!(
            both(json!([[["local", "global"], 1]])).unwrap(),
            [Some(256), None]
        );
        let error = both(json!([[["global", "local"], 1]])).unwrap_err();
        assert!(is_about(&error, "attention_layers"), "{error:?}");
    }

    #[test]
    fn types_that_fit_nothing() {
        for types in [
            json!([[["global"], 5]]),
            json!([[["global"], 1_u64 << 60]]),
            json!([["global", 4]]),
            json!("global"),
        ] {
            let error = windows(json!({"num_layers": 4, "attention_types": types})).unwrap_err();
            assert!(is_about(&error, "attention_types"), "{error:?}");
        }
        let odd = windows(json!({"num_layers": 1, "attention_types": [[["strided"], 1]]}));
        assert!(odd.unwrap_err().to_string().contains("is `strided`"));
    }
}
