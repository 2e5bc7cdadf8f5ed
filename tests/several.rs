//! Several hookpoints in one dictionary: crosscoders and cross-layer transcoders.

use crate::common::{Outcome, Workspace, fixture, job_dir, text, with_jobs};
use sae::Sae;
use serde_json::{Value, json};
use std::fs;
use tch::Device;

const SHORT: &str = "batch_size = 8\nmax_examples = 64\neval_fraction = 0.05\neval_max_examples = 1000\nexpansion_factor = 2\n\
                     hookpoints = ['layers.0.mlp', 'layers.1.mlp', 'layers.2.mlp']\nlr_warmup_steps = 4";

const JOBS: [(&str, &str); 5] = [
    ("crosscoder", "crosscoder=True, activation='batchtopk'"),
    (
        "seeds",
        "crosscoder=True, init_seeds=[1, 2], crosscoder_norm='sae', activation='relu'",
    ),
    (
        "decoupled",
        "crosscoder=True, activation='batchtopk', crosscoder_norm='decoupled', normalize_decoder=False, \
         rescale_acts_by_decoder_norm=True",
    ),
    ("layers", "transcode=True, cross_layer=True"),
    (
        "batch layers",
        "transcode=True, cross_layer=True, activation='batchtopk', skip_connection=True",
    ),
];

fn trained() -> (Workspace, Outcome) {
    let workspace = with_jobs(SHORT, &JOBS);
    let outcome = workspace.run(&["tiny.toml"]).succeeds();
    (workspace, outcome)
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn they_are_jobs_like_others_up_to_their_evaluation() {
    let (workspace, outcome) = trained();
    outcome.remarks(&[
        "5 jobs on one forward pass",
        "calibrating the thresholds of 5 SAEs",
        "evaluating 10 SAEs on 52 held-out sequences",
        "all 5 jobs are done",
    ]);
    let all = "layers.0.mlp+layers.1.mlp+layers.2.mlp";
    let rows = workspace.sql("SELECT job, kind, sae, hookpoint FROM result ORDER BY ordinal, sae");
    let row = |job: &str, kind: &str, sae: &str, hookpoint: &str| json!({"job": job, "kind": kind, "sae": sae, "hookpoint": hookpoint});
    let mlps = ["layers.0.mlp", "layers.1.mlp", "layers.2.mlp"];
    let mut expected = vec![
        row("crosscoder", "crosscoder batchtopk", "crosscoder", all),
        row("seeds", "crosscoder relu", "crosscoder/seed1", all),
        row("seeds", "crosscoder relu", "crosscoder/seed2", all),
    ];
    expected.push(row("decoupled", "crosscoder batchtopk", "crosscoder", all));
    expected.extend(mlps.map(|mlp| row("layers", "cross-layer topk", mlp, mlp)));
    expected.extend(mlps.map(|mlp| row("batch layers", "cross-layer batchtopk", mlp, mlp)));
    assert_eq!(json!(rows), json!(expected));
    let odd = "SELECT * FROM result WHERE fvu IS NULL OR fvu_eval IS NULL OR fvu_eval NOT BETWEEN 0.05 AND 1.5
        OR kl <= 0 OR ce_spliced IS NULL";
    assert_eq!(json!(workspace.sql(odd)), json!([]));
    let together = "SELECT count(DISTINCT kl) AS n FROM result WHERE job = 'layers'";
    assert_eq!(
        workspace.sql_value(together),
        1,
        "layers are spliced in together"
    );
    let l0 = "SELECT l0_calibrated AS l0 FROM result WHERE kind LIKE '%batchtopk' AND job <> 'decoupled'";
    for row in workspace.sql(l0) {
        assert!((float(&row["l0"]) - 4.0).abs() < 0.1, "{row}");
    }
    let of_hookpoints = workspace.sql(
        "SELECT own.value->>'hookpoint' AS hookpoint, own.value->>'l0' AS l0, own.value->>'threshold' AS threshold,
             sae_calibration.threshold AS mean, sae_calibration.l0 AS of_any
         FROM sae_calibration, json_each(hookpoint_thresholds) AS own ORDER BY own.key",
    );
    let hookpoints: Vec<&str> = of_hookpoints
        .iter()
        .map(|row| row["hookpoint"].as_str().unwrap())
        .collect();
    assert_eq!(hookpoints, mlps);
    let thresholds = of_hookpoints.iter().map(|row| float(&row["threshold"]));
    let mean = thresholds.sum::<f64>() / 3.0;
    let shown = workspace.run(&["show", "decoupled"]).succeeds();
    for mlp in mlps {
        assert!(shown.stdout.contains(&format!("\n  {mlp}")), "{shown}");
    }
    for row in &of_hookpoints {
        assert!((float(&row["l0"]) - 4.0).abs() < 0.1, "{row}");
        assert!(float(&row["of_any"]) > 4.0 && (float(&row["mean"]) - mean).abs() < 1e-6);
    }
    workspace
        .run(&["tiny.toml"])
        .succeeds()
        .remarks(&["all 5 jobs are done already"]);
}

#[test]
fn what_is_saved_is_whole_and_says_what_it_is() {
    let (workspace, _) = trained();
    let saved = |job: &str, name: &str| job_dir(&workspace, job).join(name);
    let crosscoder = Sae::load_from_disk(&saved("crosscoder", "crosscoder"), Device::Cpu).unwrap();
    assert!(crosscoder.cfg.is_crosscoder());
    assert_eq!((crosscoder.cfg.d_in, crosscoder.num_latents()), (96, 64));
    assert_eq!(crosscoder.cfg.hookpoints.len(), 3);
    let decoupled = Sae::load_from_disk(&saved("decoupled", "crosscoder"), Device::Cpu).unwrap();
    assert!(decoupled.cfg.is_decoupled());
    assert_eq!(decoupled.threshold.unwrap().size(), [3]);
    for (job, n_first) in [("layers", 96), ("batch layers", 96)] {
        let first = Sae::load_from_disk(&saved(job, "layers.0.mlp"), Device::Cpu).unwrap();
        assert_eq!((first.cfg.d_in, first.cfg.d_out()), (32, n_first));
        let bias = first.b_dec.narrow(0, 32, 64).abs().max().double_value(&[]);
        assert_eq!(bias, 0.0, "later biases are of later layers");
        let last = Sae::load_from_disk(&saved(job, "layers.2.mlp"), Device::Cpu).unwrap();
        assert_eq!(last.cfg.hookpoints, ["layers.2.mlp"]);
    }
    let weights = saved("crosscoder", "crosscoder/model.safetensors");
    fs::remove_file(weights).unwrap();
    workspace
        .run(&["tiny.toml"])
        .succeeds()
        .remarks(&["crosscoder", "all 5 jobs are done"]);
    assert!(saved("crosscoder", "crosscoder/model.safetensors").is_file());
}

#[test]
fn they_are_encoded_evaluated_and_reported() {
    let (workspace, _) = trained();
    for job in ["crosscoder", "decoupled", "layers"] {
        let encode = [
            "encode",
            job,
            "--text",
            "Call me Ishmael.",
            "--out",
            "out.parquet",
            "--json",
        ];
        let encoded = workspace.run(&encode).succeeds().json();
        assert!(encoded["n_tokens"].as_u64() > Some(3), "{encoded}");
    }
    let dataset = fixture("tiny.jsonl");
    let eval = |sae: &str, more: &[&str]| {
        let args = [
            "eval",
            sae,
            "--dataset",
            text(&dataset),
            "--ctx-len",
            "64",
            "--max-examples",
            "9",
        ];
        workspace.run(&[&args[..], more].concat())
    };
    for (job, n_saes) in [("crosscoder", 1), ("decoupled", 1), ("layers", 3)] {
        let evaluated = eval(job, &["--json"]).succeeds().listed("saes");
        assert_eq!(evaluated.len(), n_saes, "{evaluated:?}");
    }
    let layer = job_dir(&workspace, "layers").join("layers.1.mlp");
    let model = fixture("tiny-llama");
    eval(text(&layer), &["--model", text(&model)])
        .exits(2)
        .remarks(&[
            "`layers.1.mlp` is a layer of a cross-layer transcoder",
            "layers.0.mlp` is missing",
        ])
        .hints("all its layers");
    workspace.run(&["report", "-o", "page.html"]).succeeds();
    let page = fs::read_to_string(workspace.path("page.html")).unwrap();
    assert!(page.contains("crosscoder batchtopk") && page.contains("cross-layer topk"));
}

#[test]
fn hookpoints_that_do_not_go_together_are_refused() {
    let plan = |settings: &str| {
        let workspace = with_jobs("batch_size = 8", &[("a", settings)]);
        workspace.run(&["plan", "tiny.toml"])
    };
    for key in ["crosscoder=True", "transcode=True, cross_layer=True"] {
        let name = key
            .trim_start_matches("transcode=True, ")
            .trim_end_matches("=True");
        plan(&format!("{key}, hookpoints=['layers.1']")).refuses(&[
            &format!("`{name}`"),
            "several hookpoints",
            "`layers.1`",
        ]);
        plan(&format!(
            "{key}, hookpoints=['layers.1.mlp', 'layers.1.mlp.gate_proj']"
        ))
        .refuses(&[&format!("`{name}`"), "`hookpoints` of one width"]);
    }
    plan("crosscoder=True, transcode=True").refuses(&["`transcode`", "`crosscoder`"]);
    plan("cross_layer=True").refuses(&["`cross_layer`", "`transcode`"]);
    let decoupled = "crosscoder=True, crosscoder_norm='decoupled'";
    plan(decoupled).refuses(&["`activation`", "batchtopk", "`crosscoder_norm` decoupled"]);
    let of_batch = format!("{decoupled}, activation='batchtopk'");
    plan(&of_batch).refuses(&[
        "`rescale_acts_by_decoder_norm`",
        "`crosscoder_norm` decoupled",
    ]);
    plan(&format!(
        "{of_batch}, normalize_decoder=False, rescale_acts_by_decoder_norm=True, \
         normalize_activations='covariance_whitening'"
    ))
    .refuses(&["`normalize_activations`", "`crosscoder_norm` decoupled"]);
}
