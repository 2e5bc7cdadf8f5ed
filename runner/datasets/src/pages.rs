//! What the pages of a Parquet file claim to be once unpacked, which is checked before anything is
//! unpacked: the decoder takes their word for it, and asks for that much memory. Some codecs unpack
//! whatever there is, whatever the page says; these are measured where they could be too long.

use super::columnar::{BoxError, MAX_BLOCK_BYTES, TooLarge};
use super::page_header::PageHeader;
use flate2::bufread::MultiGzDecoder;
use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// The most values of a page, nulls included. Runs of equal ones take next to no room in the file, and
/// a row of token ids is decoded at once.
const MAX_PAGE_VALUES: u64 = 1 << 26;

/// How many times as long as it is packed a page can be.
const MAX_GZIP_RATIO: u64 = 1032;
const MAX_LZ4_RATIO: u64 = 255;

const BROTLI_BUFFER_BYTES: usize = 1 << 16;

/// The least length of a value in a dictionary.
const MIN_VALUE_BYTES: u64 = 4;

/// Checks the pages of the columns `leaves`, by their numbers. Gives the length of the longest.
///
/// # Errors
/// A page is damaged, or is or may be too long.
pub(super) fn check_pages(
    file: &File,
    metadata: &ParquetMetaData,
    leaves: &[usize],
) -> Result<u64, BoxError> {
    let mut file = BufReader::new(file);
    let mut n_longest = 0;
    for row_group in metadata.row_groups() {
        for leaf_idx in leaves {
            let n_bytes = check_chunk(&mut file, row_group.column(*leaf_idx))?;
            n_longest = n_longest.max(n_bytes);
        }
    }
    Ok(n_longest)
}

fn check_chunk(file: &mut BufReader<&File>, chunk: &ColumnChunkMetaData) -> Result<u64, BoxError> {
    let (mut start, mut n_left) = chunk.byte_range();
    let mut n_longest = 0;
    file.seek(SeekFrom::Start(start))?;
    while n_left > 0 {
        let page = PageHeader::read(file.by_ref().take(n_left))?;
        let n_bytes = page.n_header_bytes + page.n_packed_bytes;
        n_left = n_left.checked_sub(n_bytes).ok_or("a page is cut short")?;
        check_page(file, page, chunk.compression())?;
        n_longest = n_longest.max(page.n_unpacked_bytes);
        start += n_bytes;
        // Most pages' headers are not in the buffer, but where pages are small.
        let position = file.stream_position()?;
        file.seek_relative(start.cast_signed() - position.cast_signed())?;
    }
    Ok(n_longest)
}

fn check_page(
    file: &mut BufReader<&File>,
    page: PageHeader,
    compression: Compression,
) -> Result<(), BoxError> {
    if page.n_values > MAX_PAGE_VALUES {
        return Err("a page has too many values".into());
    }
    if page.is_dictionary && page.n_values > page.n_unpacked_bytes / MIN_VALUE_BYTES {
        return Err("a dictionary is shorter than its values".into());
    }
    let n_bytes = page.n_unpacked_bytes.max(match compression {
        Compression::GZIP(_) if page.n_packed_bytes > MAX_BLOCK_BYTES / MAX_GZIP_RATIO => {
            unpacked_bytes(MultiGzDecoder::new(file.by_ref().take(page.n_packed_bytes)))?
        }
        Compression::BROTLI(_) => {
            let packed = file.by_ref().take(page.n_packed_bytes);
            unpacked_bytes(brotli::Decompressor::new(packed, BROTLI_BUFFER_BYTES))?
        }
        // Of this codec, which is no longer written, there are several kinds.
        Compression::LZ4 => page.n_packed_bytes.saturating_mul(MAX_LZ4_RATIO),
        _ => 0,
    });
    match n_bytes > MAX_BLOCK_BYTES {
        true => Err(TooLarge { n_bytes }.into()),
        false => Ok(()),
    }
}

/// How much is unpacked, up to one byte more than is read.
fn unpacked_bytes(unpacked: impl Read) -> io::Result<u64> {
    io::copy(&mut unpacked.take(MAX_BLOCK_BYTES + 1), &mut io::sink())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::gzipped;
    use parquet::basic::{GzipLevel, Type};
    use parquet::schema::types::{ColumnDescriptor, ColumnPath, Type as SchemaType};
    use std::io::Write;
    use std::sync::Arc;

    struct Claim {
        n_unpacked_bytes: u64,
        n_values: u64,
        is_dictionary: bool,
    }

    const MODEST: Claim = Claim {
        n_unpacked_bytes: 100,
        n_values: 3,
        is_dictionary: false,
    };

    fn varint(mut value: u64, bytes: &mut Vec<u8>) {
        while value >= 0x80 {
            bytes.push((value as u8) | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
    }

    fn page(claim: &Claim, packed: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x15, 0];
        for n_bytes in [claim.n_unpacked_bytes, packed.len() as u64] {
            bytes.push(0x15);
            varint(2 * n_bytes, &mut bytes);
        }
        bytes.extend([if claim.is_dictionary { 0x4c } else { 0x2c }, 0x15]);
        varint(2 * claim.n_values, &mut bytes);
        bytes.extend([0, 0]);
        bytes.extend(packed);
        bytes
    }

    fn check(pages: &[Vec<u8>], compression: Compression) -> Result<u64, BoxError> {
        let content = pages.concat();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let primitive = SchemaType::primitive_type_builder("a", Type::BYTE_ARRAY).build();
        let path = ColumnPath::new(vec!["a".into()]);
        let column = ColumnDescriptor::new(Arc::new(primitive.unwrap()), 0, 0, path);
        let chunk = ColumnChunkMetaData::builder(Arc::new(column))
            .set_compression(compression)
            .set_total_compressed_size(content.len() as i64)
            .build();
        check_chunk(&mut BufReader::new(&file), &chunk.unwrap())
    }

    fn problem(claim: Claim, compression: Compression) -> String {
        let pages = [page(&MODEST, b"fine"), page(&claim, b"packed")];
        check(&pages, compression).unwrap_err().to_string()
    }

    #[test]
    fn the_longest_page_is_found() {
        let longer = Claim {
            n_unpacked_bytes: 1 << 20,
            ..MODEST
        };
        let pages = [
            page(&MODEST, b"fine"),
            page(&longer, &[7; 10_000]),
            page(&MODEST, b""),
        ];
        assert_eq!(check(&pages, Compression::SNAPPY).unwrap(), 1 << 20);
        let cut = [page(&MODEST, b"fine"), page(&MODEST, b"fine")[..9].to_vec()];
        assert!(check(&cut, Compression::SNAPPY).is_err());
    }

    #[test]
    fn claims_are_bounded() {
        let too_long = Claim {
            n_unpacked_bytes: MAX_BLOCK_BYTES + 1,
            ..MODEST
        };
        let text = problem(too_long, Compression::SNAPPY);
        assert_eq!(text, "a block of it has 1073741825 bytes");
        let too_many = Claim {
            n_values: MAX_PAGE_VALUES + 1,
            ..MODEST
        };
        let text = problem(too_many, Compression::SNAPPY);
        assert_eq!(text, "a page has too many values");
        let dictionary = Claim {
            n_values: 26,
            is_dictionary: true,
            ..MODEST
        };
        let text = problem(dictionary, Compression::SNAPPY);
        assert_eq!(text, "a dictionary is shorter than its values");
    }

    /// Its pages say that they are short, and its codec does not mind.
    #[test]
    fn what_gzip_unpacks_is_measured() {
        let part = gzipped(&vec![0; 16 << 20]);
        let compression = Compression::GZIP(GzipLevel::default());
        let parts = |n_parts| [page(&MODEST, &part.repeat(n_parts))];
        let error = check(&parts(65), compression).unwrap_err();
        assert!(error.is::<TooLarge>(), "{error}");
        check(&parts(64), compression).unwrap();
    }

    #[test]
    fn what_brotli_unpacks_is_measured() {
        let mut packed = brotli::CompressorWriter::new(Vec::new(), 4096, 0, 22);
        packed.write_all(&[0; 1000]).unwrap();
        let pages = [page(&MODEST, &packed.into_inner())];
        check(&pages, Compression::BROTLI(Default::default())).unwrap();
        assert!(
            check(
                &[page(&MODEST, b"x")],
                Compression::BROTLI(Default::default())
            )
            .is_err()
        );
    }

    #[test]
    fn a_page_of_the_old_lz4_may_be_too_long() {
        let packed = vec![0; (MAX_BLOCK_BYTES / MAX_LZ4_RATIO) as usize + 1];
        let error = check(&[page(&MODEST, &packed)], Compression::LZ4).unwrap_err();
        assert!(error.is::<TooLarge>(), "{error}");
        check(&[page(&MODEST, &packed[1..])], Compression::LZ4).unwrap();
    }
}
