//! TFRecord files: each record is its length (u64), a checksum of that, its bytes, and a checksum of those.

use crc_fast::{CrcAlgorithm, checksum};
use std::io::{self, Read};

/// The longest record that is read: above any that is written.
const MOST_BYTES: u64 = 1 << 28;

/// A record with what is around it.
pub(super) fn framed(record: &[u8]) -> Vec<u8> {
    let length = (record.len() as u64).to_le_bytes();
    let mut framed = Vec::with_capacity(record.len() + 16);
    framed.extend(length);
    framed.extend(masked_checksum(&length).to_le_bytes());
    framed.extend(record);
    framed.extend(masked_checksum(record).to_le_bytes());
    framed
}

/// The next record; `None`: what follows is not a whole one.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn next(file: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let Some(head) = read_exactly(file, 12)? else {
        return Ok(None);
    };
    let (length, sum) = head.split_at(8);
    if sum != masked_checksum(length).to_le_bytes() {
        return Ok(None);
    }
    let n_bytes = u64::from_le_bytes(length.try_into().expect("it has eight bytes"));
    if n_bytes > MOST_BYTES {
        return Ok(None);
    }
    let Some(mut record) = read_exactly(file, n_bytes + 4)? else {
        return Ok(None);
    };
    let sum = record.split_off(record.len() - 4);
    Ok((sum == masked_checksum(&record).to_le_bytes()).then_some(record))
}

/// `None`: the file ends before.
fn read_exactly(file: &mut impl Read, n_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(n_bytes).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 == n_bytes).then_some(bytes))
}

/// CRC32C, rotated and shifted as TensorFlow does, since checksums of data with checksums in it are weak.
fn masked_checksum(bytes: &[u8]) -> u32 {
    let sum = checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32;
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use files::testing::any_bytes;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(
            checksum(CrcAlgorithm::Crc32Iscsi, b"123456789"),
            0xe306_9283
        );
    }

    #[test]
    fn a_torn_record_ends_the_file() {
        let bytes = [framed(b"one"), framed(b"two")].concat();
        for end in 0..=bytes.len() {
            let mut file = &bytes[..end];
            let mut records = Vec::new();
            while let Some(record) = next(&mut file).unwrap() {
                records.push(record);
            }
            let whole = [b"one".to_vec(), b"two".to_vec()];
            assert_eq!(records, whole[..end / (bytes.len() / 2)]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in any_bytes(vec![framed(b"one"), [framed(b"one"), framed(b"two")].concat()])
        ) {
            let mut file = bytes.as_slice();
            while next(&mut file).unwrap().is_some() {}
        }
    }
}
