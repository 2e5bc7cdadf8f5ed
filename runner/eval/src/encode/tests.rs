//! Rows against SAEs by hand, in both formats.

use super::*;
use crate::ranks::Alone;
use crate::thread_ranks::on_ranks;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type, Int64Type};
use lm::{LanguageModel, LoadOptions, Taps};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use plan::{Dtype, EncodeFormat, EncodeInput, ModelUse, Texts, TokenizerClass};
use sae::{SaeConfig, tensors_by_name};
use sae_files::find_saes;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tch::Tensor;
use tempfile::{TempDir, tempdir};
use tokens::Tokenizer;

const TEXTS: [&str; 3] = [
    "Call me Ishmael.",
    "Some years ago - never mind how long precisely - having little or no money in my purse",
    "I thought I would sail about a little",
];

fn tiny_llama() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-llama")
}

/// An SAE of the last block but one, and a transcoder of an MLP.
fn saes() -> TempDir {
    let folder = tempdir().unwrap();
    let transcoder = SaeConfig {
        transcode: true,
        ..SaeConfig::topk(32, 48, 3)
    };
    for (seed, (name, cfg)) in [
        ("layers.2", SaeConfig::topk(32, 64, 8)),
        ("layers.1.mlp", transcoder),
    ]
    .into_iter()
    .enumerate()
    {
        let sae = Sae::new(cfg, seed as i64, Device::Cpu).unwrap();
        sae.save_to_disk(&folder.path().join(name)).unwrap();
    }
    folder
}

fn task(saes: &TempDir, out: &str) -> EncodeTask {
    let out = saes.path().join(out);
    EncodeTask {
        model: ModelUse {
            dir: tiny_llama(),
            second: None,
            dtype: Dtype::Float32,
            load_in_8bit: false,
            device: "cpu".into(),
        },
        input: texts(&TEXTS),
        saes: find_saes(saes.path()).unwrap(),
        top: None,
        batch_tokens: 40,
        format: EncodeFormat::of_path(&out).unwrap(),
        out,
    }
}

fn texts(texts: &[&str]) -> EncodeInput {
    let texts = texts.iter().map(|&text| text.to_owned());
    EncodeInput::Texts {
        texts: Texts::Given(texts.collect()),
        tokenizer_class: TokenizerClass::File,
        ctx_len: None,
    }
}

fn encoded(task: &EncodeTask) -> EncodeSummary {
    let mut done = Vec::new();
    let summary = encode(task, &Alone, &mut |n_done| {
        done.push(n_done);
        ControlFlow::Continue(())
    });
    let summary = summary.unwrap().unwrap();
    assert_eq!(done.last(), Some(&3));
    summary
}

/// Sequence, position, token, name of the SAE, latent.
type Key = (i64, i32, i32, String, i32);

fn table(path: &Path) -> Vec<(Key, f32)> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let mut rows = Vec::new();
    for batch in reader.build().unwrap() {
        let batch = batch.unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let int = |name: &str, row: usize| column(name).as_primitive::<Int32Type>().value(row);
        let name = |column: &str, row: usize| {
            let names = batch.column_by_name(column).unwrap();
            let names = names.as_dictionary::<Int32Type>();
            let values = names.downcast_dict::<arrow_array::StringArray>().unwrap();
            let key = values.keys().value(row) as usize;
            values.values().value(key).to_owned()
        };
        for row in 0..batch.num_rows() {
            let sequence = column("sequence").as_primitive::<Int64Type>().value(row);
            assert_eq!(name("sae", row), name("hookpoint", row));
            let row_key = (
                sequence,
                int("position", row),
                int("token_id", row),
                name("sae", row),
                int("latent", row),
            );
            let activation = column("activation").as_primitive::<Float32Type>();
            rows.push((row_key, activation.value(row)));
        }
    }
    rows
}

/// What should be in the file, each text by itself.
fn by_hand(task: &EncodeTask) -> Vec<(Key, f32)> {
    let tokenizer = Tokenizer::from_dir(&tiny_llama()).unwrap();
    let model = LanguageModel::load(&tiny_llama(), &LoadOptions::default()).unwrap();
    let taps = Taps::new(model.facts(), &["layers.2"]).unwrap();
    let taps = taps.with_inputs(model.facts(), &["layers.1.mlp"]).unwrap();
    let mut rows = Vec::new();
    for (sequence, text) in TEXTS.iter().enumerate() {
        let ids = tokenizer.tokenize(text).unwrap();
        let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
        let activations = model.forward(&Tensor::from_slice(&ids).view([1, -1]), &taps);
        let activations = activations.unwrap();
        for found in &task.saes {
            let sae = Sae::load_from_disk(&found.dir, Device::Cpu).unwrap();
            let x = if sae.cfg.transcode {
                activations.input(&found.hookpoint).unwrap()
            } else {
                activations.get(&found.hookpoint).unwrap()
            };
            let encoded = sae.encode(&x.view([-1, 32])).unwrap();
            for (position, &id) in ids.iter().enumerate() {
                let mut of_token: Vec<_> = (0..encoded.latent_acts.size()[1])
                    .map(|idx| {
                        let at = [position as i64, idx];
                        let latent = encoded.latent_indices.int64_value(&at) as i32;
                        (latent, encoded.latent_acts.double_value(&at) as f32)
                    })
                    .filter(|(_, act)| *act > 0.0)
                    .collect();
                of_token.sort_by(|a, b| b.1.total_cmp(&a.1));
                of_token.truncate(task.top.unwrap_or(usize::MAX));
                let name = &found.name;
                let key = |latent| {
                    (
                        sequence as i64,
                        position as i32,
                        id as i32,
                        name.clone(),
                        latent,
                    )
                };
                rows.extend(of_token.into_iter().map(|(latent, act)| (key(latent), act)));
            }
        }
    }
    rows
}

#[track_caller]
fn same(a: &[(Key, f32)], b: &[(Key, f32)]) {
    assert_eq!(a.len(), b.len());
    for ((a_key, a), (b_key, b)) in a.iter().zip(b) {
        assert_eq!(a_key, b_key);
        assert!((a - b).abs() < 1e-4, "{a_key:?}: {a} and {b}");
    }
}

#[test]
fn rows_are_the_saes_own_latents() {
    let saes = saes();
    let task = task(&saes, "latents.parquet");
    let summary = encoded(&task);
    let rows = table(&task.out);
    same(&rows, &by_hand(&task));
    assert_eq!(summary.n_sequences, 3);
    assert_eq!(summary.n_rows.iter().sum::<u64>(), rows.len() as u64);
    let files = fs::read_dir(saes.path()).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "nothing else is left: {names:?}");
}

#[test]
fn top_keeps_the_strongest_and_batches_make_no_difference() {
    let saes = saes();
    let mut task = task(&saes, "latents.parquet");
    task.top = Some(2);
    for batch_tokens in [1, 1000] {
        task.batch_tokens = batch_tokens;
        encoded(&task);
        same(&table(&task.out), &by_hand(&task));
    }
}

#[test]
fn tensors_have_the_same_rows() {
    let saes = saes();
    let task = task(&saes, "latents.safetensors");
    encoded(&task);
    let tensors = tensors_by_name(&task.out).unwrap();
    let column = |name: &str| Vec::<i64>::try_from(tensors[name].to_kind(Kind::Int64)).unwrap();
    let acts = Vec::<f32>::try_from(&tensors["activation"]).unwrap();
    let [sequence, position, token_id, sae, latent] =
        ["sequence", "position", "token_id", "sae", "latent"].map(column);
    let rows: Vec<_> = (0..acts.len())
        .map(|row| {
            let name = task.saes[sae[row] as usize].name.clone();
            let [position, token_id, latent] =
                [position[row], token_id[row], latent[row]].map(|number| number as i32);
            ((sequence[row], position, token_id, name, latent), acts[row])
        })
        .collect();
    same(&rows, &by_hand(&task));
    let header = fs::read(&task.out).unwrap();
    let text = String::from_utf8_lossy(&header[..400]);
    assert!(text.contains(r#"\"hookpoint\":\"layers.1.mlp\""#), "{text}");
}

#[test]
fn nothing_is_left_of_what_was_broken_off_or_failed() {
    let saes = saes();
    let mut task = task(&saes, "latents.parquet");
    let stopped = encode(&task, &Alone, &mut |_| ControlFlow::Break(()));
    assert!(stopped.unwrap().is_none());
    let long = "sail ".repeat(400);
    task.input = texts(&["a", &long]);
    let failed = encode(&task, &Alone, &mut |_| ControlFlow::Continue(())).unwrap_err();
    task.input = texts(&TEXTS);
    let message = failed.to_string();
    assert!(message.starts_with("text 1 has "), "{message}");
    assert!(message.ends_with("a sequence at most 128"), "{message}");
    task.saes[0].hookpoint = "layers.9".into();
    let failed = encode(&task, &Alone, &mut |_| ControlFlow::Continue(()));
    let message = failed.unwrap_err().to_string();
    assert!(message.contains("`layers.9`"), "{message}");
    task.saes[0].hookpoint = "layers.1.mlp.down_proj".into();
    let failed = encode(&task, &Alone, &mut |_| ControlFlow::Continue(()));
    let message = failed.unwrap_err().to_string();
    assert!(
        message.contains("has widths (32, 32), in and out"),
        "{message}"
    );
    assert!(!task.out.exists());
    let left: Vec<_> = fs::read_dir(saes.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn names_of_transformer_lens_are_found() {
    let saes = saes();
    let mut task = task(&saes, "latents.parquet");
    task.saes.retain(|sae| sae.hookpoint == "layers.2");
    encoded(&task);
    let expected = fs::read(&task.out).unwrap();
    task.saes[0].hookpoint = "blocks.2.hook_resid_post".into();
    encoded(&task);
    assert!(fs::read(&task.out).unwrap() == expected);
}

#[test]
fn ranks_write_the_file_of_one_process() {
    let saes = saes();
    for name in ["latents.parquet", "latents.safetensors"] {
        let mut task = task(&saes, name);
        // Batches of one text or two.
        let many: Vec<&str> = TEXTS.iter().cycle().take(11).copied().collect();
        task.input = texts(&many);
        let go_on = |_: u64| ControlFlow::Continue(());
        let summary = encode(&task, &Alone, &mut { go_on }).unwrap().unwrap();
        let expected = fs::read(&task.out).unwrap();
        for n_ranks in [2, 3, 20] {
            fs::remove_file(&task.out).unwrap();
            let of_ranks = on_ranks(n_ranks, |ranks| {
                encode(&task, ranks, &mut { go_on }).unwrap().unwrap()
            });
            assert_eq!(of_ranks[0], summary);
            assert!(fs::read(&task.out).unwrap() == expected, "{n_ranks} ranks");
        }
        fs::remove_file(&task.out).unwrap();
    }
}
