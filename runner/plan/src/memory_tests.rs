//! What memory is predicted, in numbers to be checked in the head.

use crate::stream::tests::{group, jobs, jobs_on};
use crate::{Job, group_streams, sae_memory};
use serde_json::json;

/// Two SAEs of 64 latents, and a batch of one sequence of 8 tokens.
fn two_saes(more: serde_json::Value) -> Vec<Job> {
    let mut settings = json!({"layers": [0, 1], "num_latents": 64, "batch_size": 1});
    let more = more.as_object().unwrap().clone();
    settings.as_object_mut().unwrap().extend(more);
    jobs(&[settings])
}

#[test]
fn memory_counts_weights_three_times_and_the_model_once() {
    let jobs = jobs(&[
        json!({"layers": [1], "num_latents": 64}),
        json!({"layers": [1], "num_latents": 64, "k": 8}),
    ]);
    let memory = group(&jobs, 1, None)[0].memory;
    assert_eq!(memory.model_bytes, 4 * (800 + 2 * 1000));
    assert_eq!(memory.sae_bytes, 2 * 3 * 4 * (2 * 64 * 8 + 64 + 8));
    assert!(memory.workspace_bytes > 0);

    let model_bytes = |overrides: serde_json::Value| {
        let jobs = self::jobs(&[overrides]);
        group(&jobs, 1, None)[0].memory.model_bytes
    };
    let bf16 = json!({"layers": [1], "dtype": "bfloat16"});
    assert_eq!(model_bytes(bf16), 2 * (800 + 2 * 1000));
    let in_8bit = json!({"layers": [1], "dtype": "bfloat16", "load_in_8bit": true});
    assert_eq!(model_bytes(in_8bit), 2 * 800 + 2 * (900 + 2 * 100));
    let with_head = json!({"layers": [1], "loss_fn": "ce"});
    assert_eq!(model_bytes(with_head), 4 * (800 + 4 * 1000 + 100 * 8));
}

#[test]
fn memory_of_an_sae_is_that_of_its_copies() {
    let job = &jobs(&[json!({"layers": [1], "num_latents": 64, "optimizer": "adam"})])[0];
    let memory = sae_memory(&job.config, &job.saes[0], 3);
    let weights = 4 * (2 * 64 * 8 + 64 + 8);
    assert_eq!(memory.weights_bytes, weights);
    assert_eq!(memory.gradients_bytes, weights);
    assert_eq!(memory.optimizer_bytes, 2 * weights);
    assert_eq!(memory.activations_bytes, 4 * (64 + 4 * 8) * 32 * 8);
    let spread = json!({"layers": [1], "num_latents": 64, "distribute_modules": true});
    let job = &jobs(&[spread])[0];
    let spread = sae_memory(&job.config, &job.saes[0], 3);
    assert_eq!(spread.weights_bytes, weights);
    assert_eq!(spread.activations_bytes, 3 * memory.activations_bytes);
}

#[test]
fn evaluation_takes_the_whole_model_after_training() {
    let memory = |settings| group(&jobs(&[settings]), 1, None)[0].memory;
    let without = memory(json!({"layers": [0], "num_latents": 32}));
    assert_eq!(without.evaluation_bytes, 0);
    let with = memory(json!({"layers": [0], "num_latents": 32, "eval_fraction": 0.5}));
    let model = 4 * (800 + 4 * 1000 + 100 * 8);
    let logits = 3 * 4 * 32 * 8 * 100;
    let weights = 4 * (2 * 32 * 8 + 32 + 8);
    // 32 sequences of 8 tokens, of width 8, before the block of the hookpoint.
    let begun = 4 * 32 * 8 * 8;
    assert_eq!(with.evaluation_bytes, model + weights + logits + begun);
    assert_eq!(with.total_bytes(), with.evaluation_bytes);
}

#[test]
fn copies_on_all_ranks_take_the_same_on_each() {
    let jobs = two_saes(json!({}));
    let [one, two] = [1, 2].map(|n_ranks| group(&jobs, n_ranks, None).remove(0));
    assert_eq!(one.memory, two.memory);
    assert_eq!((one.n_ranks, two.n_ranks), (1, 2));
    assert_eq!(one.stream_id, two.stream_id, "it may go on in any number");
    let alone = two_saes(json!({"distribute_modules": true}));
    let alone = group(&alone, 1, None).remove(0).memory;
    assert_eq!(alone, one.memory, "nothing changes where there is one rank");
}

#[test]
fn saes_on_one_rank_each_take_memory_there_and_the_activations_of_all() {
    let memory = |more| group(&two_saes(more), 2, None)[0].memory;
    let n_params = 2 * 64 * 8 + 64 + 8;
    let copied = memory(json!({}));
    assert_eq!(copied.sae_bytes, 2 * 3 * 4 * n_params);
    // Two hookpoints of width 8, and a row of an SAE, for 8 tokens.
    let row = 64 + 4 * 8;
    assert_eq!(copied.workspace_bytes, 4 * 8 * (2 * 8 + row) + 4 * n_params);
    let spread = memory(json!({"distribute_modules": true}));
    assert_eq!(spread.model_bytes, copied.model_bytes);
    assert_eq!(spread.sae_bytes, 3 * 4 * n_params);
    // One hookpoint and the row for 16 tokens.
    let taps = 4 * 8 * 2 * 8;
    assert_eq!(
        spread.workspace_bytes,
        taps + 4 * 16 * (8 + row) + 4 * n_params
    );
    // Sent in 2 bytes, then input and target in 4.
    let half = memory(json!({"distribute_modules": true, "dtype": "bfloat16"}));
    assert_eq!(
        half.workspace_bytes,
        taps + 16 * (2 * 8 + 4 * (8 + 8 + row)) + 4 * n_params
    );
}

/// In 96 parts, when a row of an SAE is one float and the total variance takes more, 4 * 8.
#[test]
fn memory_besides_the_activations_of_all() {
    let workspace = |n_layers: usize, n_ranks| {
        let layers: Vec<_> = (0..n_layers).collect();
        let settings = json!({
            "layers": layers, "num_latents": 64, "micro_acc_steps": 96, "batch_size": 1,
            "distribute_modules": true,
        });
        let jobs = jobs_on(12, &[settings]);
        let facts = crate::model::tests::facts(12);
        let streams = group_streams(&jobs, |_| &facts, n_ranks, None).unwrap();
        let memory = streams[0].memory;
        // Without the hookpoints' 8 tokens of this rank, and a part's gradients.
        memory.workspace_bytes - 4 * (n_layers as u64 * 8 * 8 + 2 * 64 * 8 + 64 + 8)
    };
    assert_eq!(
        workspace(1, 1),
        4 * 8 * 8 * 8,
        "a block of the model takes 8 rows"
    );
    assert_eq!(workspace(2, 2), 4 * 16 * (8 + 4 * 8), "of 16 tokens");
    // Six hookpoints a rank: as they came, and sorted.
    assert_eq!(workspace(12, 2), 4 * 16 * (2 * 6 * 8));
}

#[test]
fn the_rank_that_needs_the_most_counts() {
    let jobs = jobs(&[
        json!({"layers": [0, 1, 2], "num_latents": 64, "distribute_modules": true}),
        json!({"layers": [0], "num_latents": 64}),
    ]);
    let memory = group(&jobs, 2, None)[0].memory;
    let n_params = 2 * 64 * 8 + 64 + 8;
    assert_eq!(
        memory.sae_bytes,
        (2 + 1) * 3 * 4 * n_params,
        "two of three, and the copy"
    );
}

#[test]
fn kinds_with_more_vectors_have_more_weights() {
    let weights = |activation: &str| {
        let settings = json!({"layers": [1], "num_latents": 64, "activation": activation});
        let job = &jobs(&[settings])[0];
        sae_memory(&job.config, &job.saes[0], 1).weights_bytes
    };
    let plain = 4 * (2 * 64 * 8 + 64 + 8);
    assert_eq!(weights("relu"), plain);
    assert_eq!(weights("batchtopk"), plain);
    assert_eq!(weights("jumprelu"), plain + 4 * 64);
    assert_eq!(weights("gated"), plain + 4 * 2 * 64);
}

#[test]
fn what_is_computed_with_all_latents_is_in_blocks() {
    let activations = |settings: serde_json::Value| {
        let job = &jobs(&[settings])[0];
        sae_memory(&job.config, &job.saes[0], 1).activations_bytes
    };
    let of = |activation: &str, num_latents: usize| {
        activations(json!({"layers": [1], "num_latents": num_latents, "activation": activation}))
    };
    let (n_tokens, row) = (32 * 8, 4 * (4 * 8));
    assert_eq!(of("relu", 64), n_tokens * (row + 6 * 4 * 64));
    assert_eq!(of("gated", 64), n_tokens * (row + 8 * 4 * 64));
    assert_eq!(of("gated", 1 << 20), n_tokens * row + 8 * (256 << 20));
    // Once it lists them, from all at once.
    assert_eq!(of("jumprelu", 1 << 20), n_tokens * (row + 7 * (1 << 20)));
    let listed = json!({"layers": [1], "num_latents": 64, "activation": "batchtopk", "k": 2.5});
    // 7 latents a token, 30 bytes for each, in whole floats.
    assert_eq!(activations(listed), n_tokens * (row + 4 * 64 + 4 * 52));
    let nested = json!({"layers": [1], "num_latents": 64, "matryoshka_widths": [8, 16]});
    assert_eq!(activations(nested), n_tokens * (row + 4 * 64 + 4 * 3 * 8));
}

#[test]
fn hookpoints_that_choose_apart_have_a_list_each() {
    let crosscoder = |norm: &str| {
        jobs(&[json!({
            "layers": [0, 1], "num_latents": 64, "activation": "batchtopk", "k": 2.5, "crosscoder": true,
            "normalize_decoder": false, "rescale_acts_by_decoder_norm": true, "crosscoder_norm": norm,
        })])
        .remove(0)
    };
    let [whole, apart] = ["sae", "decoupled"].map(crosscoder);
    let activations = |job: &Job| sae_memory(&job.config, &job.saes[0], 1).activations_bytes;
    // 7 latents a token, and then 14, of 30 bytes each in whole floats.
    let n_tokens = 32 * 8;
    assert_eq!(
        activations(&apart) - activations(&whole),
        n_tokens * 4 * (105 - 52)
    );
    let workspace = |job: Job| group(&[job], 1, None)[0].memory.workspace_bytes;
    let n_params = 2 * 64 * 16 + 64 + 16;
    assert!(workspace(apart) >= workspace(whole) + 4 * n_params);
}

#[test]
fn what_waits_for_the_whole_update_holds_its_tokens() {
    let workspace = |more: serde_json::Value, n_passes: u64| {
        let mut settings = json!({"grad_acc_steps": n_passes});
        let more = more.as_object().unwrap().clone();
        settings.as_object_mut().unwrap().extend(more);
        group(&two_saes(settings), 1, None)[0]
            .memory
            .workspace_bytes
    };
    let held = |more: serde_json::Value| workspace(more.clone(), 4) - workspace(more, 1);
    let tokens = 4 * 2 * 8 * 3 * 8;
    assert_eq!(held(json!({})), 0);
    let batchtopk = json!({"activation": "batchtopk", "k": 5});
    assert_eq!(held(batchtopk), tokens + 12 * 2 * 14 * 3 * 8);
    let residual = json!({"loss_fn": "mse", "auxk_alpha": 0.1, "auxk_norm": "residual"});
    assert_eq!(held(residual), tokens);
    let mean = json!({
        "activation": "jumprelu", "jumprelu_sparsity_loss_mode": "mean_quadratic", "target_l0": 5,
    });
    assert_eq!(held(mean), tokens);
}
