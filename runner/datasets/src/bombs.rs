//! Files that claim to be far longer once unpacked than they are.

use super::samples::{
    Sample, as_arrow_file, as_arrow_stream, as_parquet, assert_damaged, batch_of, gzipped,
    text_batch,
};
use arrow_array::DictionaryArray;
use arrow_array::types::Int8Type;
use arrow_ipc::CompressionType;
use arrow_ipc::root_as_message;
use arrow_ipc::writer::IpcWriteOptions;
use fault::Remedy;
use parquet::basic::Compression;
use std::ops::Range;
use std::sync::Arc;

pub(super) const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
pub(super) const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

fn options(compression: CompressionType) -> IpcWriteOptions {
    let options = IpcWriteOptions::default();
    options.try_with_compression(Some(compression)).unwrap()
}

fn offsets_of(content: &[u8], part: &[u8]) -> Vec<usize> {
    let windows = content.windows(part.len()).enumerate();
    windows
        .filter(|(_, window)| *window == part)
        .map(|(offset, _)| offset)
        .collect()
}

/// The file with every packed buffer claiming to be of `n_bytes`.
fn claiming(mut content: Vec<u8>, magic: [u8; 4], n_bytes: i64) -> Vec<u8> {
    let offsets = offsets_of(&content, &magic);
    assert!(!offsets.is_empty());
    for offset in offsets {
        content[offset - 8..offset].copy_from_slice(&n_bytes.to_le_bytes());
    }
    content
}

#[track_caller]
fn assert_no_more_than_damaged(name: &str, content: &[u8]) {
    // The whole file is at fault, not a row that could be left out.
    let error = Sample::new(&[(name, content)]).skip().error();
    assert_damaged(&error, name);
    assert!(error.hint().unwrap().contains("is the file complete?"));
}

/// More than any machine has is in `tests/memory.rs`, as it ends the process.
#[test]
fn arrow_buffers_that_claim_too_much() {
    for (compression, magic) in [
        (CompressionType::LZ4_FRAME, LZ4_MAGIC),
        (CompressionType::ZSTD, ZSTD_MAGIC),
    ] {
        let content = as_arrow_file(&text_batch(900), options(compression));
        for n_bytes in [1 << 10, (1 << 30) + 1] {
            assert_no_more_than_damaged("a.arrow", &claiming(content.clone(), magic, n_bytes));
        }
    }
}

#[test]
fn arrow_dictionaries_that_claim_too_much() {
    let texts = (0..900).map(|row| format!("document {} of the sample", row % 100));
    let texts: Vec<_> = texts.collect();
    let array: DictionaryArray<Int8Type> = texts.iter().map(String::as_str).collect();
    let batch = batch_of(vec![("text", Arc::new(array))]);
    let content = as_arrow_file(&batch, options(CompressionType::LZ4_FRAME));
    assert_eq!(
        Sample::new(&[("a.arrow", &content)]).texts().unwrap(),
        texts
    );
    assert_no_more_than_damaged("a.arrow", &claiming(content, LZ4_MAGIC, (1 << 30) + 1));
}

/// The description of the message at `start` of a stream.
fn metadata_at(content: &[u8], start: usize) -> Range<usize> {
    let (start, n_bytes) = (start + 8, &content[start + 4..start + 8]);
    let n_bytes = u32::from_le_bytes(n_bytes.try_into().unwrap());
    start..start + n_bytes as usize
}

/// A batch in a stream that is said to have 2 GiB.
#[test]
fn arrow_bodies_that_claim_too_much() {
    let mut content = as_arrow_stream(&text_batch(900));
    let schema = metadata_at(&content, 0);
    let batch = metadata_at(&content, schema.end);
    let length = root_as_message(&content[batch.clone()])
        .unwrap()
        .bodyLength();
    let offset = batch.start + offsets_of(&content[batch], &length.to_le_bytes())[0];
    content[offset..offset + 8].copy_from_slice(&(2_u64 << 30).to_le_bytes());
    assert_no_more_than_damaged("a.arrow", &content);
    assert_no_more_than_damaged("a.arrow.gz", &gzipped(&content));
}

/// The dictionary of this file's text claims 2 GiB less a byte.
#[test]
fn parquet_pages_that_claim_too_much() {
    let mut content = as_parquet(&text_batch(90), Compression::ZSTD(Default::default()));
    // Type, and then the length once unpacked of a page with seven texts of 24 bytes: as zigzag numbers.
    let n_bytes = 7 * (4 + "document 0 of the sample".len());
    let [low, high] = [(2 * n_bytes) as u8 | 0x80, (n_bytes >> 6) as u8];
    let start = offsets_of(&content, &[0x15, 4, 0x15, low, high])[0];
    grow_claim(&mut content, start);
    assert_no_more_than_damaged("a.parquet", &content);
}

/// Puts the largest length there is into a page's header, and takes the room for it from the page.
fn grow_claim(content: &mut Vec<u8>, start: usize) {
    let varint = |content: &[u8], start: usize| {
        let n_bytes = 1 + content[start..]
            .iter()
            .position(|byte| byte & 0x80 == 0)
            .unwrap();
        let bytes = content[start..start + n_bytes].iter().rev();
        let value = bytes.fold(0_u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
        (start + n_bytes, value)
    };
    let (packed_start, _) = varint(content, start + 3);
    let (end, zigzag) = varint(content, packed_start + 1);
    let largest = [0xfe, 0xff, 0xff, 0xff, 0x0f];
    let n_more = largest.len() - (packed_start - start - 3);
    let n_packed_bytes = zigzag / 2 - n_more as u64;
    let mut packed = vec![0x15];
    let mut zigzag_left = n_packed_bytes * 2;
    while zigzag_left >= 0x80 {
        packed.push((zigzag_left as u8) | 0x80);
        zigzag_left >>= 7;
    }
    packed.push(zigzag_left as u8);
    assert_eq!(
        packed.len(),
        end - packed_start,
        "the number keeps its length"
    );
    let header = [&[0x15, 4, 0x15][..], &largest, &packed].concat();
    content.splice(start..end, header);
    // The header continues after this; what is left out belongs to the page.
    let behind = start + 3 + largest.len() + packed.len() + 16;
    content.drain(behind..behind + n_more);
}
