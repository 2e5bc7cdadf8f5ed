//! What loading in 8 bit takes at most: a test alone in its process, for it reads the process's peak.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use facts::read_facts;
use plan::Dtype;
use sae_run_lm::{LanguageModel, LoadOptions};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// A few blocks with the widths of SmolLM2-135M.
const N_LAYERS: usize = 8;
const HIDDEN_SIZE: usize = 576;
const KV_SIZE: usize = 192;
const INTERMEDIATE_SIZE: usize = 1536;
const LINEAR_PARAMS: u64 =
    (N_LAYERS * HIDDEN_SIZE * (2 * HIDDEN_SIZE + 2 * KV_SIZE + 3 * INTERMEDIATE_SIZE)) as u64;

/// Room for one tensor at a time, which has 0.9 million weights: as it comes from the file, in
/// float32, and the steps of its quantisation. That is 10 MB; the heap may keep more.
const ONE_TENSOR_BYTES: u64 = 48 << 20;
const _: () = assert!(
    ONE_TENSOR_BYTES < 2 * LINEAR_PARAMS,
    "or a whole model would fit"
);

fn write_model(dir: &Path) {
    let config = json!({
        "model_type": "llama",
        "vocab_size": 64,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": INTERMEDIATE_SIZE,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 64,
        "tie_word_embeddings": true,
        "dtype": "bfloat16",
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    write_weights(&dir.join("model.safetensors"), &tensors());
}

/// Name and shape of every tensor.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let (d, d_kv, d_mlp) = (HIDDEN_SIZE, KV_SIZE, INTERMEDIATE_SIZE);
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![64, d]),
        ("model.norm.weight".to_owned(), vec![d]),
    ];
    for layer_idx in 0..N_LAYERS {
        for (module, shape) in [
            ("input_layernorm", vec![d]),
            ("post_attention_layernorm", vec![d]),
            ("self_attn.q_proj", vec![d, d]),
            ("self_attn.k_proj", vec![d_kv, d]),
            ("self_attn.v_proj", vec![d_kv, d]),
            ("self_attn.o_proj", vec![d, d]),
            ("mlp.gate_proj", vec![d_mlp, d]),
            ("mlp.up_proj", vec![d_mlp, d]),
            ("mlp.down_proj", vec![d, d_mlp]),
        ] {
            tensors.push((format!("model.layers.{layer_idx}.{module}.weight"), shape));
        }
    }
    tensors
}

/// In bfloat16, tensor by tensor: this process must never have held them all.
fn write_weights(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let header = Value::from(header).to_string();
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for (_, shape) in tensors {
        // 0.0156 and -0.031, in turn.
        let pair = [0x80, 0x3c, 0x00, 0xbd];
        let n_pairs = shape.iter().product::<usize>() / 2;
        file.write_all(&pair.repeat(n_pairs)).unwrap();
    }
    file.flush().unwrap();
}

/// A line of the kernel's account of this process, in bytes.
fn resident_bytes(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let amount = line.expect("the kernel counts resident pages");
    let n_kib = amount.trim_matches(|c: char| !c.is_ascii_digit());
    n_kib.parse::<u64>().unwrap() * 1024
}

/// Every tensor is quantised before the next is read. The most that may be resident while a model is
/// loaded is then the mapped file, the weights in 8 bit, and one tensor; all weights in float32 would
/// be 113 MB more.
#[test]
fn the_full_precision_model_never_stands_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let in_8bit = LoadOptions {
        dtype: Dtype::Float32,
        load_in_8bit: true,
        ..LoadOptions::default()
    };
    // What libtorch itself takes at its first use does not belong to the model.
    let first_block = LoadOptions {
        n_layers: Some(1),
        ..in_8bit
    };
    LanguageModel::load(folder.path(), &first_block).unwrap();

    let before = resident_bytes("VmRSS:");
    let model = LanguageModel::load(folder.path(), &in_8bit).unwrap();
    let grown = resident_bytes("VmHWM:").saturating_sub(before);

    let facts = read_facts(folder.path()).unwrap();
    assert_eq!(
        facts.layer_8bit_params * facts.n_layers as u64,
        LINEAR_PARAMS
    );
    let (file_bytes, in_bf16) = (2 * LINEAR_PARAMS, 2 * LINEAR_PARAMS);
    let allowed = file_bytes + model.linear_bytes() + ONE_TENSOR_BYTES;
    assert!(grown <= allowed, "grew by {grown} bytes, {allowed} allowed");
    assert!(model.linear_bytes() as f64 <= 0.6 * in_bf16 as f64);
}
