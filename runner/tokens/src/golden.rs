//! Tokens, shuffles and documents against sparsify 1.3.3 and datasets 5.2; see
//! `tests/fixtures/README.md` for the files.

use crate::fixtures::{data_files, fixture, sha256, text_rows};
use crate::{TokenSpec, Tokenizer, Tokens, TokensError, chunk_and_tokenize, permutation};
use datasets::{Document, Documents};
use plan::RowSpec;
use serde_json::Value;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use tempfile::NamedTempFile;

fn golden() -> Value {
    let text = std::fs::read_to_string(fixture("data/golden.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn read(path: &Path, rows: RowSpec) -> Vec<Document> {
    let documents = Documents::open(data_files(path), rows).unwrap();
    documents.collect::<Result<_, _>>().unwrap()
}

fn texts(name: &str) -> Vec<String> {
    let text = |document| match document {
        Document::Text(text) => text,
        Document::TokenIds(_) => panic!("`{name}` holds token ids"),
    };
    let documents = read(&fixture("data").join(name), text_rows(64));
    documents.into_iter().map(text).collect()
}

/// A JSON lines file with the first `n_documents` of `texts`.
fn file_of(texts: &[String], n_documents: usize) -> NamedTempFile {
    let mut file = tempfile::Builder::new()
        .suffix(".jsonl")
        .tempfile()
        .unwrap();
    for text in &texts[..n_documents] {
        writeln!(file, "{}", serde_json::json!({ "text": text })).unwrap();
    }
    file
}

/// The sequences of a case of `golden.json`.
fn sequences(case: &Value, texts: &[String]) -> Result<Vec<Vec<u32>>, TokensError> {
    let number = |key: &str| case[key].as_u64().unwrap() as usize;
    let file = file_of(texts, number("n_documents"));
    let tokenizer = fixture("data").join(case["tokenizer"].as_str().unwrap());
    let documents = Documents::open(data_files(file.path()), text_rows(64))?;
    chunk_and_tokenize(
        documents,
        &Tokenizer::from_dir(&tokenizer)?,
        number("ctx_len"),
    )
}

fn digest<'a>(rows: impl IntoIterator<Item = &'a Vec<u32>>) -> String {
    sha256(rows.into_iter().flatten().flat_map(|id| id.to_le_bytes()))
}

fn assert_equal(sequences: &[Vec<u32>], golden: &Value, case: &str) {
    assert_eq!(
        sequences.len() as u64,
        golden["n_chunks"].as_u64().unwrap(),
        "{case}"
    );
    assert_eq!(sequences[0], ids(&golden["first"]), "{case}");
    assert_eq!(
        sequences[sequences.len() - 1],
        ids(&golden["last"]),
        "{case}"
    );
    assert_eq!(
        digest(sequences),
        golden["sha256"].as_str().unwrap(),
        "{case}"
    );
}

#[test]
fn every_kind_of_tokenizer_gives_sparsifys_sequences_in_its_order() {
    let (golden, texts) = (golden(), texts("documents.jsonl.gz"));
    for case in golden["chunks"].as_array().unwrap() {
        let name = format!("{} at {}", case["tokenizer"], case["ctx_len"]);
        let sequences = sequences(case, &texts).unwrap();
        assert_equal(&sequences, case, &name);
        for shuffled in case["shuffled"].as_array().into_iter().flatten() {
            let order = permutation(sequences.len() as u64, shuffled["seed"].as_u64().unwrap());
            let rows: Vec<_> = order
                .iter()
                .map(|row| sequences[*row as usize].clone())
                .collect();
            for (row, expected) in rows.iter().zip(shuffled["first"].as_array().unwrap()) {
                assert_eq!(*row, ids(expected), "{name}");
            }
            assert_eq!(
                digest(&rows),
                shuffled["sha256"].as_str().unwrap(),
                "{name}"
            );
        }
    }
}

/// The tokenizers whose documents can be tokenised one by one, and those whose cannot.
#[test]
fn both_ways_of_tokenising_are_among_them() {
    let is_separable = |name: &str| {
        let tokenizer = Tokenizer::from_dir(&fixture("data").join(name));
        tokenizer.unwrap().is_separable()
    };
    for name in ["byte-bpe", "byte-bpe-bos", "spm-like", "config-tokens"] {
        assert!(is_separable(name), "{name}");
    }
    for name in ["eos-lstrip", "no-eos", "wordpiece"] {
        assert!(!is_separable(name), "{name}");
    }
}

/// If sparsify fails because a batch gives no sequence, the batches before it are what we take.
#[test]
fn a_batch_without_a_sequence_adds_nothing() {
    let (golden, texts) = (golden(), texts("documents.jsonl.gz"));
    for case in golden["errors"].as_array().unwrap() {
        let expected = &case["batches_before"];
        match sequences(case, &texts) {
            Ok(sequences) => {
                assert_eq!(
                    sequences.len() as u64,
                    expected["n_chunks"].as_u64().unwrap()
                );
                assert_eq!(digest(&sequences), expected["sha256"].as_str().unwrap());
            }
            Err(error) => {
                assert!(
                    error.to_string().contains("too few for one sequence"),
                    "{error:?}"
                );
                assert_eq!(expected["n_chunks"], 0);
            }
        }
    }
}

#[test]
fn every_format_gives_the_documents_of_datasets() {
    let golden = golden();
    for (name, expected) in golden["documents"].as_object().unwrap() {
        let texts = texts(name);
        assert_eq!(
            texts.len() as u64,
            expected["n_documents"].as_u64().unwrap(),
            "{name}"
        );
        let joined = texts.join("\0");
        assert_eq!(
            sha256(joined.bytes()),
            expected["sha256"].as_str().unwrap(),
            "{name}"
        );
    }
}

#[test]
fn token_ids_are_those_that_were_written() {
    let golden = golden();
    for name in ["pretokenised.parquet", "memmap.bin"] {
        let ids = |document| match document {
            Document::TokenIds(ids) => ids,
            Document::Text(_) => panic!("`{name}` holds text"),
        };
        let rows = read(&fixture("data").join(name), text_rows(37));
        let rows: Vec<_> = rows.into_iter().map(ids).collect();
        assert_equal(&rows, &golden[name], name);
    }
}

#[test]
fn a_bin_file_becomes_tokens() {
    let spec = TokenSpec {
        files: data_files(&fixture("data/memmap.bin")),
        rows: text_rows(37),
        tokenizer_dir: fixture("data"),
        vocab_size: 1 << 16,
    };
    let cache = tempfile::tempdir().unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    let tokens = Tokens::open_or_build(&spec, cache.path(), go_on).unwrap();
    let bytes = (0..tokens.n_sequences()).flat_map(|i| tokens.sequence_bytes(i).to_vec());
    let file = std::fs::read(fixture("data/memmap.bin")).unwrap();
    assert!(bytes.eq(file));
}
