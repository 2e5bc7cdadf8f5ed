//! Shapes of models by the names that they have on the Hub, as their config.json has them: for planning where no file of
//! the model is available. What these keys do not say has the family's default, and no width or count depends on it.

use crate::architecture::{ModelConfig, of_map};
use serde_json::{Map, Value, json};

/// Models of one family whose names have the same form.
struct Models {
    /// What comes before the size.
    before: &'static str,
    /// What may come after it.
    after: &'static [&'static str],
    sizes: &'static [Size],
    config: fn(&Size) -> Value,
}

/// A size of a family.
struct Size {
    /// As it is written in the name.
    name: &'static str,
    n_layers: usize,
    hidden_size: usize,
    /// Width of the MLP.
    d_mlp: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    vocab_size: usize,
    /// Longest context.
    n_positions: usize,
    is_tied: bool,
}

const fn size(
    name: &'static str,
    [n_layers, hidden_size, d_mlp]: [usize; 3],
    [n_heads, n_kv_heads, head_dim]: [usize; 3],
    [vocab_size, n_positions]: [usize; 2],
    is_tied: bool,
) -> Size {
    Size {
        name,
        n_layers,
        hidden_size,
        d_mlp,
        n_heads,
        n_kv_heads,
        head_dim,
        vocab_size,
        n_positions,
        is_tied,
    }
}

const LLAMA_3: &[Size] = &[
    size(
        "8B",
        [32, 4096, 14336],
        [32, 8, 128],
        [128_256, 8192],
        false,
    ),
    size(
        "70B",
        [80, 8192, 28672],
        [64, 8, 128],
        [128_256, 8192],
        false,
    ),
];

const LLAMA_3_1: &[Size] = &[
    size(
        "8B",
        [32, 4096, 14336],
        [32, 8, 128],
        [128_256, 131_072],
        false,
    ),
    size(
        "70B",
        [80, 8192, 28672],
        [64, 8, 128],
        [128_256, 131_072],
        false,
    ),
    size(
        "405B",
        [126, 16384, 53248],
        [128, 8, 128],
        [128_256, 131_072],
        false,
    ),
];

const LLAMA_3_2: &[Size] = &[
    size(
        "1B",
        [16, 2048, 8192],
        [32, 8, 64],
        [128_256, 131_072],
        true,
    ),
    size(
        "3B",
        [28, 3072, 8192],
        [24, 8, 128],
        [128_256, 131_072],
        true,
    ),
];

const GEMMA_2: &[Size] = &[
    size("2b", [26, 2304, 9216], [8, 4, 256], [256_000, 8192], true),
    size("9b", [42, 3584, 14336], [16, 8, 256], [256_000, 8192], true),
    size(
        "27b",
        [46, 4608, 36864],
        [32, 16, 128],
        [256_000, 8192],
        true,
    ),
];

/// Without a tower for images, as the next.
const GEMMA_3_SMALL: &[Size] = &[size(
    "270m",
    [18, 640, 2048],
    [4, 1, 256],
    [262_144, 32_768],
    true,
)];

const GEMMA_3_TEXT: &[Size] = &[size(
    "1b",
    [26, 1152, 6912],
    [4, 1, 256],
    [262_144, 32_768],
    true,
)];

const GEMMA_3: &[Size] = &[
    size(
        "4b",
        [34, 2560, 10240],
        [8, 4, 256],
        [262_208, 131_072],
        true,
    ),
    size(
        "12b",
        [48, 3840, 15360],
        [16, 8, 256],
        [262_208, 131_072],
        true,
    ),
    size(
        "27b",
        [62, 5376, 21504],
        [32, 16, 128],
        [262_208, 131_072],
        true,
    ),
];

const QWEN_3: &[Size] = &[
    size(
        "0.6B",
        [28, 1024, 3072],
        [16, 8, 128],
        [151_936, 40_960],
        true,
    ),
    size(
        "1.7B",
        [28, 2048, 6144],
        [16, 8, 128],
        [151_936, 40_960],
        true,
    ),
    size(
        "4B",
        [36, 2560, 9728],
        [32, 8, 128],
        [151_936, 40_960],
        true,
    ),
    size(
        "8B",
        [36, 4096, 12288],
        [32, 8, 128],
        [151_936, 40_960],
        false,
    ),
    size(
        "14B",
        [40, 5120, 17408],
        [40, 8, 128],
        [151_936, 40_960],
        false,
    ),
    size(
        "32B",
        [64, 5120, 25600],
        [64, 8, 128],
        [151_936, 40_960],
        false,
    ),
];

const QWEN_3_BASE: &[Size] = &[
    size(
        "0.6B",
        [28, 1024, 3072],
        [16, 8, 128],
        [151_936, 32_768],
        true,
    ),
    size(
        "1.7B",
        [28, 2048, 6144],
        [16, 8, 128],
        [151_936, 32_768],
        true,
    ),
    size(
        "4B",
        [36, 2560, 9728],
        [32, 8, 128],
        [151_936, 32_768],
        true,
    ),
    size(
        "8B",
        [36, 4096, 12288],
        [32, 8, 128],
        [151_936, 32_768],
        false,
    ),
    size(
        "14B",
        [40, 5120, 17408],
        [40, 8, 128],
        [151_936, 32_768],
        false,
    ),
];

const PYTHIA: &[Size] = &[
    size("14m", [6, 128, 512], [4, 4, 32], [50_304, 2048], false),
    size("31m", [6, 256, 1024], [8, 8, 32], [50_304, 2048], false),
    size("70m", [6, 512, 2048], [8, 8, 64], [50_304, 2048], false),
    size("160m", [12, 768, 3072], [12, 12, 64], [50_304, 2048], false),
    size(
        "410m",
        [24, 1024, 4096],
        [16, 16, 64],
        [50_304, 2048],
        false,
    ),
    size("1b", [16, 2048, 8192], [8, 8, 256], [50_304, 2048], false),
    size(
        "1.4b",
        [24, 2048, 8192],
        [16, 16, 128],
        [50_304, 2048],
        false,
    ),
    size(
        "2.8b",
        [32, 2560, 10240],
        [32, 32, 80],
        [50_304, 2048],
        false,
    ),
    size(
        "6.9b",
        [32, 4096, 16384],
        [32, 32, 128],
        [50_432, 2048],
        false,
    ),
    size(
        "12b",
        [36, 5120, 20480],
        [40, 40, 128],
        [50_688, 2048],
        false,
    ),
];

const GPT_2: &[Size] = &[
    size("gpt2", [12, 768, 3072], [12, 12, 64], [50_257, 1024], true),
    size(
        "gpt2-medium",
        [24, 1024, 4096],
        [16, 16, 64],
        [50_257, 1024],
        true,
    ),
    size(
        "gpt2-large",
        [36, 1280, 5120],
        [20, 20, 64],
        [50_257, 1024],
        true,
    ),
    size(
        "gpt2-xl",
        [48, 1600, 6400],
        [25, 25, 64],
        [50_257, 1024],
        true,
    ),
];

const SMOL_LM_2: &[Size] = &[
    size("135M", [30, 576, 1536], [9, 3, 64], [49_152, 8192], true),
    size("360M", [32, 960, 2560], [15, 5, 64], [49_152, 8192], true),
    size("1.7B", [24, 2048, 8192], [32, 32, 64], [49_152, 8192], true),
];

const INSTRUCT: &[&str] = &["", "-Instruct"];

const ALL: [Models; 15] = [
    models("meta-llama/Meta-Llama-3-", INSTRUCT, LLAMA_3, llama),
    models("meta-llama/Meta-Llama-3.1-", INSTRUCT, LLAMA_3_1, llama),
    models("meta-llama/Llama-3.1-", INSTRUCT, LLAMA_3_1, llama),
    models("meta-llama/Llama-3.2-", INSTRUCT, LLAMA_3_2, llama),
    models("google/gemma-2-", &["", "-it"], GEMMA_2, gemma_2),
    models("google/gemma-3-", &["", "-it"], GEMMA_3_SMALL, gemma_3_text),
    models(
        "google/gemma-3-",
        &["-pt", "-it"],
        GEMMA_3_TEXT,
        gemma_3_text,
    ),
    models("google/gemma-3-", &["-pt", "-it"], GEMMA_3, gemma_3),
    models("Qwen/Qwen3-", &[""], QWEN_3, qwen_3),
    models("Qwen/Qwen3-", &["-Base"], QWEN_3_BASE, qwen_3),
    models("EleutherAI/pythia-", &["", "-deduped"], PYTHIA, pythia),
    models("openai-community/", &[""], GPT_2, gpt_2),
    // The Hub's older names of the same models.
    models("", &[""], GPT_2, gpt_2),
    models("HuggingFaceTB/SmolLM2-", INSTRUCT, SMOL_LM_2, llama),
    models("meta-llama/Llama-3.3-", &["-Instruct"], LLAMA_3_3, llama),
];

const LLAMA_3_3: &[Size] = &[size(
    "70B",
    [80, 8192, 28672],
    [64, 8, 128],
    [128_256, 131_072],
    false,
)];

const fn models(
    before: &'static str,
    after: &'static [&'static str],
    sizes: &'static [Size],
    config: fn(&Size) -> Value,
) -> Models {
    Models {
        before,
        after,
        sizes,
        config,
    }
}

/// The configuration of the model that is called `name` on the Hub; `None`: it is not in the list.
pub fn published_config(name: &str) -> Option<ModelConfig> {
    let found = ALL.iter().find_map(|models| {
        let rest = name.strip_prefix(models.before)?;
        let is_it = |size: &&Size| {
            let after = rest.strip_prefix(size.name);
            after.is_some_and(|after| models.after.contains(&after))
        };
        models.sizes.iter().find(is_it).map(models.config)
    });
    let map: Map<String, Value> = found?.as_object()?.clone();
    Some(of_map(map).expect("the tests read every configuration of the list"))
}

/// The names of all models in the list.
pub fn published_models() -> impl Iterator<Item = String> {
    ALL.iter().flat_map(|models| {
        let names = models.sizes.iter();
        names.flat_map(|size| {
            let after = models.after.iter();
            after.map(|after| format!("{}{}{after}", models.before, size.name))
        })
    })
}

/// What the configurations of Llama, Gemma and Qwen have in common.
fn decoder(model_type: &str, size: &Size) -> Value {
    json!({
        "model_type": model_type,
        "num_hidden_layers": size.n_layers,
        "hidden_size": size.hidden_size,
        "intermediate_size": size.d_mlp,
        "num_attention_heads": size.n_heads,
        "num_key_value_heads": size.n_kv_heads,
        "head_dim": size.head_dim,
        "vocab_size": size.vocab_size,
        "max_position_embeddings": size.n_positions,
        "tie_word_embeddings": size.is_tied,
        "torch_dtype": "bfloat16",
    })
}

fn llama(size: &Size) -> Value {
    decoder("llama", size)
}

fn gemma_2(size: &Size) -> Value {
    decoder("gemma2", size)
}

fn gemma_3_text(size: &Size) -> Value {
    decoder("gemma3_text", size)
}

fn gemma_3(size: &Size) -> Value {
    json!({"model_type": "gemma3", "text_config": gemma_3_text(size), "torch_dtype": "bfloat16"})
}

fn qwen_3(size: &Size) -> Value {
    decoder("qwen3", size)
}

fn pythia(size: &Size) -> Value {
    json!({
        "model_type": "gpt_neox",
        "num_hidden_layers": size.n_layers,
        "hidden_size": size.hidden_size,
        "intermediate_size": size.d_mlp,
        "num_attention_heads": size.n_heads,
        "rotary_pct": 0.25,
        "vocab_size": size.vocab_size,
        "max_position_embeddings": size.n_positions,
        "tie_word_embeddings": size.is_tied,
        "torch_dtype": "float16",
    })
}

fn gpt_2(size: &Size) -> Value {
    json!({
        "model_type": "gpt2",
        "n_layer": size.n_layers,
        "n_embd": size.hidden_size,
        "n_head": size.n_heads,
        "n_inner": size.d_mlp,
        "vocab_size": size.vocab_size,
        "n_positions": size.n_positions,
        "tie_word_embeddings": size.is_tied,
        "torch_dtype": "float32",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_facts;
    use crate::testing::fixtures;
    use std::collections::BTreeSet;

    /// Parameters of the whole model. Norms without a bias have a weight alone.
    fn n_params(name: &str) -> u64 {
        let config = published_config(name).unwrap();
        let (layout, facts) = (config.layout(), config.facts());
        let shapes = layout.tensors(facts.n_layers).into_iter();
        let base: usize = shapes
            .map(|spec| spec.shape.iter().product::<usize>())
            .sum();
        let head = facts.vocab_size * facts.hidden_size;
        (base + if layout.tied_head { 0 } else { head }) as u64
    }

    #[test]
    fn every_model_of_the_list_is_read_and_named_once() {
        let names: Vec<String> = published_models().collect();
        let unique: BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        for name in &names {
            let facts = published_config(name).unwrap().facts();
            assert!(!facts.hookpoints.is_empty(), "{name}");
        }
        for other in [
            "meta-llama/Meta-Llama-3-9B",
            "gpt2-xxl",
            "",
            "google/gemma-3-4b",
        ] {
            assert!(published_config(other).is_none(), "{other}");
        }
    }

    #[test]
    fn the_number_of_parameters_is_the_published_one() {
        for (name, published) in [
            ("meta-llama/Meta-Llama-3-8B", 8_030_261_248),
            ("meta-llama/Llama-3.1-70B-Instruct", 70_553_706_496),
            ("meta-llama/Llama-3.1-405B", 405_853_388_800),
            ("meta-llama/Llama-3.2-1B", 1_235_814_400),
            ("meta-llama/Llama-3.2-3B", 3_212_749_824),
            ("google/gemma-2-2b", 2_614_341_888),
            ("google/gemma-2-9b-it", 9_241_705_984),
            ("google/gemma-2-27b", 27_227_128_320),
            ("google/gemma-3-270m", 268_098_176),
            ("google/gemma-3-1b-pt", 999_885_952),
            ("Qwen/Qwen3-0.6B", 596_049_920),
            ("Qwen/Qwen3-1.7B-Base", 1_720_574_976),
            ("Qwen/Qwen3-4B", 4_022_468_096),
            ("Qwen/Qwen3-8B", 8_190_735_360),
            ("Qwen/Qwen3-14B", 14_768_307_200),
            ("Qwen/Qwen3-32B", 32_762_123_264),
            ("EleutherAI/pythia-70m", 70_426_624),
            ("EleutherAI/pythia-160m-deduped", 162_322_944),
            ("EleutherAI/pythia-410m", 405_334_016),
            ("EleutherAI/pythia-1b", 1_011_781_632),
            ("EleutherAI/pythia-1.4b", 1_414_647_808),
            ("EleutherAI/pythia-2.8b", 2_775_208_960),
            ("EleutherAI/pythia-6.9b", 6_857_302_016),
            ("EleutherAI/pythia-12b", 11_846_072_320),
            ("gpt2", 124_439_808),
            ("openai-community/gpt2-medium", 354_823_168),
            ("gpt2-large", 774_030_080),
            ("gpt2-xl", 1_557_611_200),
            ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
            ("HuggingFaceTB/SmolLM2-360M", 361_821_120),
            ("HuggingFaceTB/SmolLM2-1.7B", 1_711_376_384),
        ] {
            assert_eq!(n_params(name), published, "{name}");
        }
    }

    #[test]
    fn shapes_of_llama_are_those_of_its_own_configuration() {
        let of_list = published_config("meta-llama/Meta-Llama-3-8B").unwrap();
        let of_file = read_facts(&fixtures().join("llama-3-8b")).unwrap();
        assert_eq!(of_list.facts(), of_file);
    }
}
