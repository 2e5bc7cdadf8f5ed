//! The first bytes of a token file: what it holds, and whether it is whole.

use fault::Fault;

const MAGIC: [u8; 8] = *b"SAERUNTK";
const VERSION: u32 = 2;

/// Length of the header, in bytes. The token ids follow.
pub(crate) const HEADER_BYTES: usize = 128;
/// The part of the header its own check covers.
const CHECKED_BYTES: usize = 96;

/// What a token file holds: `n_sequences` times `ctx_len` little-endian ids of `id_bytes` each.
///
/// On disk, little-endian: magic (8 bytes), version (4), `id_bytes` (4), `ctx_len` (8),
/// `n_sequences` (8), the inputs' digest (32), `n_documents`, `n_tokens`, `n_dropped_tokens` and
/// `n_skipped` (8 each), and BLAKE3 of all that (32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id_bytes: u32,
    pub(crate) ctx_len: u64,
    pub(crate) n_sequences: u64,
    pub(crate) digest: [u8; 32],
    pub(crate) counts: TokenCounts,
}

/// What became of the rows of a data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Documents, or rows of token ids.
    pub n_documents: u64,
    /// Their tokens, the separators among them and what a post-processor adds to sequences not.
    pub n_tokens: u64,
    /// Of these, tokens at the end of batches of documents, which fill no sequence.
    pub n_dropped_tokens: u64,
    /// Bad rows that were left out.
    pub n_skipped: u64,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.id_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.ctx_len.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.n_sequences.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.digest);
        for (start, count) in (64..).step_by(8).zip(self.counts.to_array()) {
            bytes[start..start + 8].copy_from_slice(&count.to_le_bytes());
        }
        let check = blake3::hash(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(check.as_bytes());
        bytes
    }

    /// Reads the header of a whole token file made from the inputs with `digest`.
    ///
    /// # Errors
    /// The file cannot be used, and is made again.
    pub(crate) fn read(file: &[u8], digest: &[u8; 32]) -> Result<Self, Fault> {
        let parts = file.split_first_chunk::<HEADER_BYTES>();
        let Some((bytes, body)) = parts.filter(|(bytes, _)| bytes.starts_with(&MAGIC)) else {
            return Err(Fault::input("it is not a token file"));
        };
        let found = u32::from_le_bytes(part(bytes, 8));
        if found != VERSION {
            return Err(Fault::input(format!(
                "it has format version {found}, not {VERSION}"
            )));
        }
        let header = Self {
            id_bytes: u32::from_le_bytes(part(bytes, 12)),
            ctx_len: u64::from_le_bytes(part(bytes, 16)),
            n_sequences: u64::from_le_bytes(part(bytes, 24)),
            digest: part(bytes, 32),
            counts: TokenCounts {
                n_documents: u64::from_le_bytes(part(bytes, 64)),
                n_tokens: u64::from_le_bytes(part(bytes, 72)),
                n_dropped_tokens: u64::from_le_bytes(part(bytes, 80)),
                n_skipped: u64::from_le_bytes(part(bytes, 88)),
            },
        };
        if header.to_bytes() != *bytes {
            return Err(Fault::input("its header is damaged"));
        }
        if header.digest != *digest {
            return Err(Fault::input("its tokens are not those that its name says"));
        }
        let n_ids = u128::from(header.n_sequences) * u128::from(header.ctx_len);
        let expected = n_ids.saturating_mul(u128::from(header.id_bytes));
        if expected != body.len() as u128 {
            let expected = expected.saturating_add(HEADER_BYTES as u128);
            return Err(Fault::input(format!(
                "it is {} bytes long and should be {expected}",
                file.len()
            )));
        }
        Ok(header)
    }
}

impl TokenCounts {
    fn to_array(self) -> [u64; 4] {
        [
            self.n_documents,
            self.n_tokens,
            self.n_dropped_tokens,
            self.n_skipped,
        ]
    }
}

fn part<const N: usize>(bytes: &[u8; HEADER_BYTES], start: usize) -> [u8; N] {
    bytes[start..start + N]
        .try_into()
        .expect("the range is N long")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: [u8; 32] = [7; 32];
    const COUNTS: TokenCounts = TokenCounts {
        n_documents: 4,
        n_tokens: 17,
        n_dropped_tokens: 2,
        n_skipped: 1 << 40,
    };

    fn file() -> Vec<u8> {
        let header = Header {
            id_bytes: 2,
            ctx_len: 3,
            n_sequences: 5,
            digest: DIGEST,
            counts: COUNTS,
        };
        [&header.to_bytes()[..], &[0; 30]].concat()
    }

    #[test]
    fn a_whole_file_is_read() {
        let header = Header::read(&file(), &DIGEST).unwrap();
        assert_eq!(
            (header.id_bytes, header.ctx_len, header.n_sequences),
            (2, 3, 5)
        );
        assert_eq!(header.counts, COUNTS);
    }

    #[test]
    fn every_flipped_header_bit_is_found() {
        for bit in 0..HEADER_BYTES * 8 {
            let mut file = file();
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read(&file, &DIGEST).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_other_length_is_found() {
        let file = file();
        for len in 0..file.len() {
            assert!(Header::read(&file[..len], &DIGEST).is_err(), "{len} bytes");
        }
        let longer = [&file[..], &[0]].concat();
        let defect = Header::read(&longer, &DIGEST).unwrap_err();
        assert_eq!(defect.to_string(), "it is 159 bytes long and should be 158");
    }

    #[test]
    fn lengths_past_64_bits_do_not_overflow() {
        let header = Header {
            id_bytes: 4,
            ctx_len: u64::MAX,
            n_sequences: u64::MAX,
            digest: DIGEST,
            counts: COUNTS,
        };
        let defect = Header::read(&header.to_bytes(), &DIGEST).unwrap_err();
        assert!(
            defect.to_string().starts_with("it is 128 bytes long"),
            "{defect}"
        );
    }

    #[test]
    fn other_tokens_are_found() {
        let defect = Header::read(&file(), &[8; 32]).unwrap_err();
        let message = "its tokens are not those that its name says";
        assert_eq!(defect.to_string(), message);
    }
}
