//! Files that are cut short or have a byte flipped: never a panic, never rows that are not there.

use super::bombs::{LZ4_MAGIC, ZSTD_MAGIC};
use super::samples::as_parquet;
use super::samples::{
    Sample, as_arrow_file, as_arrow_stream, assert_damaged, gzipped, text_batch, zstandard,
};
use crate::DatasetError;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::IpcWriteOptions;
use parquet::basic::{Compression, ZstdLevel};

const N_ROWS: usize = 40;

/// Columnar files are long, and a panic that a decoder is caught with takes its time.
const COLUMNAR_STEP: usize = 5;

fn json_lines() -> Vec<u8> {
    let line = |row| format!("{{\"text\": \"document {row} {}\"}}\n", row * 7919 % 1013);
    (0..N_ROWS).map(line).collect::<String>().into_bytes()
}

fn read(name: &str, content: &[u8]) -> Result<Vec<String>, DatasetError> {
    Sample::new(&[(name, content)]).texts()
}

/// Every prefix of the file is damaged.
fn assert_no_prefix_is_read(name: &str, content: &[u8]) {
    for n_bytes in 0..content.len() {
        let error = read(name, &content[..n_bytes]).unwrap_err();
        assert_damaged(&error, name);
    }
}

/// Every prefix of a packed file is an error: damage, if it is long enough to be known for packed.
fn assert_no_prefix_is_unpacked(name: &str, content: &[u8]) {
    for n_bytes in 0..content.len() {
        let error = read(name, &content[..n_bytes]).unwrap_err();
        let is_damage = error.to_string().contains("` is not a readable ");
        assert!(is_damage || (1..4).contains(&n_bytes), "{error:?}");
    }
}

/// Calls `check` with what is read when one byte after the other, `step` apart, is flipped.
fn flip_bytes(
    name: &str,
    content: &[u8],
    step: usize,
    check: impl Fn(usize, Result<Vec<String>, DatasetError>),
) {
    let bytes = (0..content.len()).step_by(step);
    let is_read = |byte_idx: &usize| !name.ends_with(".arrow") || !is_claim(content, *byte_idx);
    for byte_idx in bytes.filter(is_read) {
        for mask in [0x01, 0x80] {
            let mut content = content.to_vec();
            content[byte_idx] ^= mask;
            check(byte_idx, read(name, &content));
        }
    }
}

/// Whether a byte is of the length in front of a packed buffer of an Arrow file. The library allocates that
/// much memory, and the process ends if there is too little: `tests/memory.rs` covers that.
fn is_claim(content: &[u8], byte_idx: usize) -> bool {
    let mut after = (1..=8).filter_map(|n_bytes| content.get(byte_idx + n_bytes..));
    after.any(|after| after.starts_with(&LZ4_MAGIC) || after.starts_with(&ZSTD_MAGIC))
}

/// Either the right documents or an error, as a checksum has it.
fn assert_checksum_holds(name: &str, content: &[u8]) {
    let whole = read(name, content).unwrap();
    assert_eq!(whole.len(), N_ROWS);
    flip_bytes(name, content, 1, |byte_idx, result| match result {
        Ok(texts) => assert_eq!(texts, whole, "byte {byte_idx}"),
        Err(error) => assert!(error.to_string().contains(name), "{error}"),
    });
}

/// As many documents as there are, or an error.
fn assert_no_row_is_lost(name: &str, content: &[u8]) {
    assert_eq!(read(name, content).unwrap().len(), N_ROWS);
    flip_bytes(name, content, COLUMNAR_STEP, |byte_idx, result| {
        if let Ok(texts) = result {
            assert_eq!(texts.len(), N_ROWS, "byte {byte_idx}");
        }
    });
}

#[test]
fn gzip() {
    let content = gzipped(&json_lines());
    assert_no_prefix_is_unpacked("a.jsonl.gz", &content);
    assert_checksum_holds("a.jsonl.gz", &content);
}

#[test]
fn zstandard_frames() {
    let content = zstandard(&json_lines());
    assert_no_prefix_is_unpacked("a.jsonl.zst", &content);
    assert_checksum_holds("a.jsonl.zst", &content);
}

#[test]
fn bytes_after_the_packed_ones_are_damage() {
    let mut content = gzipped(&json_lines());
    content.extend_from_slice(b"rest");
    assert_damaged(&read("a.jsonl.gz", &content).unwrap_err(), "gzip");
    let mut content = zstandard(&json_lines());
    content.extend_from_slice(b"rest");
    assert_damaged(&read("a.jsonl.zst", &content).unwrap_err(), "Zstandard");
}

#[test]
fn members_of_gzip_and_frames_of_zstandard_follow_each_other() {
    let halves = json_lines();
    let (a, b) = halves.split_at(700);
    let content = [gzipped(a), gzipped(b)].concat();
    assert_eq!(read("a.jsonl.gz", &content).unwrap().len(), N_ROWS);
    let content = [zstandard(a), zstandard(b)].concat();
    assert_eq!(read("a.jsonl.zst", &content).unwrap().len(), N_ROWS);
}

#[test]
fn parquet_files() {
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
    ] {
        let content = as_parquet(&text_batch(N_ROWS), compression);
        assert_no_prefix_is_read("a.parquet", &content);
        assert_no_row_is_lost("a.parquet", &content);
    }
}

#[test]
fn arrow_streams() {
    let content = as_arrow_stream(&text_batch(N_ROWS));
    assert_no_prefix_is_read("a.arrow", &content);
    flip_bytes("a.arrow", &content, COLUMNAR_STEP, |_, result| {
        if let Err(error) = result {
            assert!(error.to_string().contains("a.arrow"), "{error}");
        }
    });
}

#[test]
fn arrow_files() {
    for compression in [
        None,
        Some(CompressionType::LZ4_FRAME),
        Some(CompressionType::ZSTD),
    ] {
        let options = IpcWriteOptions::default()
            .try_with_compression(compression)
            .unwrap();
        let content = as_arrow_file(&text_batch(N_ROWS), options);
        assert_no_prefix_is_read("a.arrow", &content);
        flip_bytes("a.arrow", &content, COLUMNAR_STEP, |_, result| {
            if let Err(error) = result {
                assert!(error.to_string().contains("a.arrow"), "{error}");
            }
        });
    }
}
