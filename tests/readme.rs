//! What README says of recipes, run as printed.

use crate::common::{Workspace, fixture};
use std::fs;
use std::path::Path;

/// Layers and widths of SmolLM2-135M; a recipe is asked about no more.
const CONFIG: &str = r#"{
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05, "rope_theta": 100000.0, "tie_word_embeddings": true, "vocab_size": 49152
}"#;

/// The code blocks of README's section on recipes: language and text.
fn blocks() -> Vec<(String, String)> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let (_, section) = readme.split_once("## A recipe in ten lines").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let parts: Vec<_> = section.split("```").collect();
    let block = |text: &&str| {
        let (language, text) = text.split_once('\n').unwrap();
        (language.to_owned(), text.to_owned())
    };
    parts.iter().skip(1).step_by(2).map(block).collect()
}

#[test]
fn the_recipe_of_the_readme_works_as_printed() {
    let workspace = Workspace::new();
    let model = "SmolLM2-135M-Instruct";
    workspace.write(&format!("{model}/config.json"), CONFIG);
    fs::copy(
        fixture("tiny-llama/model.safetensors"),
        workspace.path(&format!("{model}/model.safetensors")),
    )
    .unwrap();
    let blocks = blocks();
    let [(python, recipe), (toml, sweep), (_, transcript)] = &blocks[..] else {
        panic!("{} blocks", blocks.len());
    };
    assert_eq!((python.as_str(), toml.as_str()), ("python", "toml"));
    assert!(recipe.lines().count() <= 12, "it is called short");
    workspace.write("recipes/depth.py", recipe);
    workspace.write("depth.toml", sweep);

    let (first, rest) = transcript.split_once('\n').unwrap();
    let (second, printed) = rest.split_once('\n').unwrap();
    assert_eq!(first, "$ sae-run recipes request depth.toml > request.json");
    let request = workspace.run(&["recipes", "request", "depth.toml"]);
    workspace.write("request.json", request.succeeds().stdout);
    let command: Vec<_> = second.split_whitespace().skip(2).collect();
    let outcome = workspace.run(&command).succeeds();
    // What Python's engine needs may change with its version; all else may not.
    let without_fuel = |text: &str| text.rsplit_once(", ").unwrap().0.to_owned();
    assert_eq!(without_fuel(&outcome.stdout), without_fuel(printed));

    let spoilt = recipe.replace("vary.get(\"stride\", 10)", "vary[\"strides\"]");
    workspace.write("recipes/depth.py", spoilt);
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let said = "depth.py:8: KeyError: 'strides'";
    assert!(readme.unwrap().contains(said));
    workspace.run(&command).exits(2).remarks(&[said]);
}
