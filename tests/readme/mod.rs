//! README, the map of the code and the book in docs/: links, commands and sweeps in them are real.

mod commands;
mod language;
mod links;
mod map;
mod recipe;
mod sweeps;

use crate::common::{Workspace, fixture};
use std::fs;
use std::path::{Path, PathBuf};

/// A Llama of the depth that the pages speak of, and as narrow as can be.
const CONFIG: &str = r#"{
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 30,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05, "rope_theta": 100000.0, "tie_word_embeddings": true, "vocab_size": 300
}"#;

/// A page and its parts.
struct Page {
    path: PathBuf,
    /// Without the fenced blocks.
    prose: String,
    blocks: Vec<Block>,
}

/// A fenced block.
struct Block {
    language: String,
    text: String,
}

/// A file of the repository.
fn in_repository(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn read_page(path: PathBuf) -> Page {
    let text = fs::read_to_string(&path).unwrap();
    let mut page = Page {
        path,
        prose: String::new(),
        blocks: Vec::new(),
    };
    let mut is_inside = false;
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            is_inside = !is_inside;
            if is_inside {
                page.blocks.push(Block {
                    language: language.to_owned(),
                    text: String::new(),
                });
            }
        } else if is_inside {
            let block = page.blocks.last_mut().unwrap();
            block.text += &format!("{line}\n");
        } else {
            page.prose += &format!("{line}\n");
        }
    }
    page
}

/// The pages of the book, without its table of contents.
fn docs() -> Vec<PathBuf> {
    let files = fs::read_dir(in_repository("docs")).unwrap();
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        path.extension().is_some_and(|it| it == "md") && !path.ends_with("SUMMARY.md")
    });
    paths.sort();
    paths
}

/// README, the map, and all of the book.
fn pages() -> Vec<Page> {
    let fixed = ["README.md", "runner/README.md", "docs/SUMMARY.md"].map(in_repository);
    fixed.into_iter().chain(docs()).map(read_page).collect()
}

/// The text between single backticks, with line breaks as spaces.
fn spans(prose: &str) -> Vec<String> {
    let paragraphs = prose.split("\n\n");
    let spans = paragraphs.flat_map(|it| it.split('`').skip(1).step_by(2));
    spans.map(|span| span.replace('\n', " ")).collect()
}

/// Puts the model and the data of the pages' sweeps into the workspace.
fn put_model_and_data(workspace: &Workspace) {
    let model = "SmolLM2-135M-Instruct";
    workspace.write(&format!("{model}/config.json"), CONFIG);
    workspace.write(&format!("{model}/model.safetensors"), weights());
    let copies = [
        (
            fixture("tiny-llama/tokenizer.json"),
            format!("{model}/tokenizer.json"),
        ),
        (fixture("tiny.jsonl"), "data/moby_dick.jsonl".to_owned()),
    ];
    for (from, to) in copies {
        workspace.write(&to, fs::read(from).unwrap());
    }
}

/// All-zero weights of [`CONFIG`], as a safetensors file.
fn weights() -> Vec<u8> {
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![300, 16]),
        ("model.norm.weight".to_owned(), vec![16]),
    ];
    for layer in 0..30 {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        shapes.extend([
            (name("input_layernorm"), vec![16]),
            (name("post_attention_layernorm"), vec![16]),
            (name("mlp.gate_proj"), vec![32, 16]),
            (name("mlp.up_proj"), vec![32, 16]),
            (name("mlp.down_proj"), vec![16, 32]),
        ]);
        let attention = ["q_proj", "k_proj", "v_proj", "o_proj"];
        shapes.extend(attention.map(|it| (name(&format!("self_attn.{it}")), vec![16, 16])));
    }
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        let tensor =
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(name, tensor);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], &header, &vec![0; end]].concat()
}
