//! The sweeps on Llama-3-8B, planned as they are: by the model's config.json alone, for eight GPUs.

use crate::common::{Outcome, Workspace, filters, fixture};
use hub_server::HubServer;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const MODEL: &str = "meta-llama/Meta-Llama-3-8B";
const DATASET: &str = "togethercomputer/RedPajama-Data-1T-Sample";
/// A GPU's memory.
const GPU_BYTES: u64 = 48_000_000_000;
const EIGHT: [&str; 2] = ["--set", "launch.nproc_per_node=8"];
const EIGHT_OUTSIDE: [(&str, &str); 4] = [
    ("RANK", "0"),
    ("WORLD_SIZE", "8"),
    ("MASTER_ADDR", "127.0.0.1"),
    ("MASTER_PORT", "29500"),
];

/// A Hub with the model's config.json, and with weights and a tokenizer of another model, which a plan does
/// not look into; and a data set of two files.
fn with_hub() -> (HubServer, Workspace) {
    let (server, workspace) = (HubServer::start(), Workspace::new());
    for (name, from) in [
        ("model/config.json", "llama-3-8b/config.json"),
        ("model/model.safetensors", "tiny-llama/model.safetensors"),
        ("model/tokenizer.json", "tiny-llama/tokenizer.json"),
        ("data/arxiv_sample.jsonl", "tiny.jsonl"),
        ("data/book_sample.jsonl", "tiny.jsonl"),
    ] {
        workspace.write(name, fs::read(fixture(from)).unwrap());
    }
    server.add_model(MODEL, &workspace.path("model"));
    server.add_dataset(DATASET, &workspace.path("data"));
    (server, workspace)
}

fn sweep(name: &str) -> String {
    let sweeps = Path::new(env!("CARGO_MANIFEST_DIR")).join("sweeps");
    sweeps.join(name).to_str().unwrap().to_owned()
}

/// `sae-run plan` of a sweep of the project.
fn plan(name: &str, variables: &[(&str, &str)], more: &[&str]) -> Outcome {
    let (server, workspace) = with_hub();
    let url = server.url();
    let variables = [variables, &[("HF_ENDPOINT", &*url)]].concat();
    workspace.run_with(&variables, &[&["plan", &*sweep(name)], more].concat())
}

/// The plan for eight processes, each stream of which fits a GPU.
fn plan_for_eight(name: &str, variables: &[(&str, &str)], more: &[&str]) -> Value {
    let outcome = plan(name, variables, &[&["--json"], more].concat()).succeeds();
    assert!(
        !outcome.stderr.contains("memory may run out"),
        "nothing is too large: {outcome}"
    );
    let plan = outcome.json();
    for stream in plan["streams"].as_array().unwrap() {
        assert_eq!(stream["n_ranks"], 8);
        assert_eq!(stream["n_layers_run"], 31, "it stops after layers.30");
        let total_bytes = total_bytes(stream);
        assert!(total_bytes < GPU_BYTES, "{total_bytes}");
    }
    let even_layers: Vec<_> = (0..16).map(|idx| format!("layers.{}", 2 * idx)).collect();
    for job in plan["jobs"].as_array().unwrap() {
        let saes = job["saes"].as_array().unwrap().iter();
        let names: Vec<_> = saes.map(|sae| sae["name"].as_str().unwrap()).collect();
        assert_eq!(names, even_layers);
    }
    plan
}

fn memory(stream: &Value, key: &str) -> u64 {
    stream["memory"][key].as_u64().unwrap()
}

fn total_bytes(stream: &Value) -> u64 {
    let keys = ["model_bytes", "sae_bytes", "workspace_bytes"];
    keys.iter().map(|key| memory(stream, key)).sum()
}

/// Weights of an SAE, in bytes.
fn sae_bytes(num_latents: u64) -> u64 {
    4 * (2 * num_latents * 4096 + num_latents + 4096)
}

#[test]
fn even_layers_in_8_bit_fit_gpus_of_48_gb() {
    let plan = plan_for_eight("llama_even_layers_8bit.toml", &[], &EIGHT);
    let [job] = &plan["jobs"].as_array().unwrap()[..] else {
        panic!("one job: {plan}");
    };
    assert_eq!(
        (&job["saes"][0]["k"], &job["saes"][0]["num_latents"]),
        (&json!(192), &json!(131_072))
    );
    let [stream] = &plan["streams"].as_array().unwrap()[..] else {
        panic!("one stream: {plan}");
    };
    // Two of 16 SAEs: weights, gradients, signum's copy.
    assert_eq!(memory(stream, "sae_bytes"), 2 * 3 * sae_bytes(131_072));
    // The embedding in 16 bit; of a block the products in 8 bit, two norms in 16.
    let products = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336;
    let model = 2 * 128_256 * 4096 + 31 * (products + 2 * 2 * 4096);
    assert_eq!(memory(stream, "model_bytes"), model);
    let of_sae = &job["sae_memory"][0];
    assert_eq!(of_sae["weights_bytes"], sae_bytes(131_072));
    // Half of the tokens of all ranks at a time.
    assert_eq!(
        of_sae["activations_bytes"],
        4u64 * 8 * 2048 * (131_072 + 4 * 4096) / 2
    );
}

#[test]
fn all_jobs_of_llama_k_are_trained_in_streams_that_fit() {
    let plan = plan_for_eight("llama_k.toml", &[], &EIGHT);
    let jobs = plan["jobs"].as_array().unwrap();
    let mut settings: Vec<_> = jobs
        .iter()
        .map(|job| {
            let sae = &job["saes"][0];
            [&sae["num_latents"], &sae["k"]].map(|number| number.as_u64().unwrap())
        })
        .collect();
    settings.sort_unstable();
    let ks = [32, 64, 128, 192];
    let expected: Vec<_> = [32_768, 131_072]
        .into_iter()
        .flat_map(|num_latents| ks.map(|k| [num_latents, k]))
        .collect();
    assert_eq!(settings, expected);
    let streams = plan["streams"].as_array().unwrap();
    let in_streams = streams
        .iter()
        .flat_map(|stream| stream["job_ids"].as_array().unwrap());
    let ids: Vec<_> = jobs.iter().map(|job| &job["job_id"]).collect();
    assert_eq!(
        in_streams.collect::<Vec<_>>(),
        ids,
        "each once, in their order"
    );
    let sizes: Vec<_> = streams
        .iter()
        .map(|stream| stream["job_ids"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes, [4, 1, 1, 1, 1]);
}

#[test]
fn with_more_memory_llama_k_has_fewer_streams() {
    let sizes = |memory_bytes: &str| {
        let limit = format!("launch.memory_bytes={memory_bytes}");
        let more = [&["--json", "--set", &*limit], &EIGHT[..]].concat();
        let plan = plan("llama_k.toml", &[], &more).succeeds().json();
        let streams = plan["streams"].as_array().unwrap().clone();
        let n_jobs = |stream: &Value| stream["job_ids"].as_array().unwrap().len();
        let sizes: Vec<_> = streams.iter().map(n_jobs).collect();
        (sizes, total_bytes(&streams[0]))
    };
    assert_eq!(sizes("76_000_000_000").0, [5, 2, 1]);
    let (all, n_bytes) = sizes("1_000_000_000_000");
    assert_eq!((all, n_bytes.div_ceil(1_000_000_000)), (vec![8], 144));
}

#[test]
fn processes_that_were_started_from_outside_are_planned_for() {
    let name = "llama_even_layers_8bit.toml";
    let from_inside = plan_for_eight(name, &[], &EIGHT);
    let from_outside = plan_for_eight(name, &EIGHT_OUTSIDE, &[]);
    assert_eq!(from_inside["streams"], from_outside["streams"]);
}

#[test]
fn where_there_is_no_gpu_a_plan_says_what_it_assumes() {
    if Path::new("/dev/nvidia0").exists() {
        return;
    }
    let outcome = plan("llama_k.toml", &[], &[]).succeeds();
    outcome.remarks(&[
        "`nproc_per_node` is `gpu`, but there is no GPU",
        "planned as for one process",
        "hint: `--set launch.nproc_per_node=8`",
    ]);
}

#[test]
fn the_plan_of_llama_k_as_people_read_it() {
    // Ids that are cut.
    let short_ids = vec![(r"\b[0-9a-f]{6}   ", "012345   ")];
    insta::with_settings!({filters => [filters(), short_ids].concat()}, {
        insta::assert_snapshot!(plan("llama_k.toml", &[("COLUMNS", "80")], &EIGHT));
    });
}
