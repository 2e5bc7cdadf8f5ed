//! Files that claim to be, or are, far longer once unpacked than memory is to be had for.

use super::page_header::PageHeader;
use super::samples::{
    Sample, as_arrow_file, as_arrow_stream, as_parquet, assert_damaged, assert_ends, batch_of,
    gzipped, text_batch,
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

const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

fn options(compression: CompressionType) -> IpcWriteOptions {
    let options = IpcWriteOptions::default();
    options.try_with_compression(Some(compression)).unwrap()
}

fn places(content: &[u8], part: &[u8]) -> Vec<usize> {
    let windows = content.windows(part.len()).enumerate();
    windows
        .filter(|(_, window)| *window == part)
        .map(|(place, _)| place)
        .collect()
}

/// The file with every packed buffer claiming to be of `n_bytes`.
fn claiming(mut content: Vec<u8>, magic: [u8; 4], n_bytes: i64) -> Vec<u8> {
    let places = places(&content, &magic);
    assert!(!places.is_empty());
    for place in places {
        content[place - 8..place].copy_from_slice(&n_bytes.to_le_bytes());
    }
    content
}

#[track_caller]
fn assert_too_long(name: &str, content: &[u8]) {
    // It is no matter of a row that could be left out.
    let error = Sample::new(&[(name, content)]).skip().error();
    assert_ends(&error, "bytes long once unpacked");
    assert!(error.to_string().contains(name), "{error}");
    assert!(error.hint().unwrap().contains("smaller"));
}

#[test]
fn arrow_buffers_that_claim_too_much() {
    for (compression, magic) in [
        (CompressionType::LZ4_FRAME, LZ4_MAGIC),
        (CompressionType::ZSTD, ZSTD_MAGIC),
    ] {
        let texts = text_batch(900).column_by_name("text").unwrap().clone();
        let batch = batch_of(vec![("text", texts.clone()), ("more", texts)]);
        let content = as_arrow_file(&batch, options(compression));
        for n_bytes in [(1 << 30) + 1, 1 << 40, i64::MAX] {
            assert_too_long("a.arrow", &claiming(content.clone(), magic, n_bytes));
        }
        // What is less than the limit by itself is not together.
        assert_too_long("a.arrow", &claiming(content.clone(), magic, 800 << 20));
        let content = claiming(content, magic, 1 << 10);
        let error = Sample::new(&[("a.arrow", &content)]).error();
        assert_damaged(&error, "a.arrow");
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
    assert_too_long("a.arrow", &claiming(content, LZ4_MAGIC, 1 << 40));
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
    let place = batch.start + places(&content[batch], &length.to_le_bytes())[0];
    content[place..place + 8].copy_from_slice(&(2_u64 << 30).to_le_bytes());
    let error = Sample::new(&[("a.arrow", &content)]).error();
    assert_damaged(&error, "a.arrow");
    assert_too_long("a.arrow.gz", &gzipped(&content));
}

/// Every page of this file's text claims 2 GiB less a byte.
#[test]
fn parquet_pages_that_claim_too_much() {
    for compression in [
        Compression::SNAPPY,
        Compression::ZSTD(Default::default()),
        Compression::LZ4_RAW,
    ] {
        let mut content = as_parquet(&text_batch(90), compression);
        // Type, length unpacked and length packed, of a dictionary: as zigzag numbers.
        let is_header = |start: &usize| {
            let header = PageHeader::read(&content[*start..]);
            header.is_ok_and(|header| header.is_dictionary && header.n_packed_bytes > 10)
        };
        let mut starts = places(&content, &[0x15, 4, 0x15]);
        starts.retain(is_header);
        assert!(!starts.is_empty());
        for start in starts {
            grow_claim(&mut content, start);
        }
        assert_too_long("a.parquet", &content);
    }
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
    // The header goes on behind; what is left out is of the page.
    let behind = start + 3 + largest.len() + packed.len() + 16;
    content.drain(behind..behind + n_more);
}
