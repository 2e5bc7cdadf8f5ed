//! What files are packed with, which their first bytes tell, as in Python's `datasets`. Names may say
//! something else.

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;
use std::io::{self, BufRead, Read};

/// Bytes that are needed to tell a packing.
pub(super) const N_HEAD_BYTES: usize = 10;

/// Largest window of a Zstandard frame, as a power of two: 128 MiB, what `zstd -d` takes unasked.
const MAX_WINDOW_LOG: u32 = 27;

/// Memory that an xz file may ask for. `xz -9` makes files that need 65 MiB.
const MAX_XZ_KIB: u32 = 256 << 10;

/// What a file is packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Nothing.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// A format that is not read.
    Foreign(&'static str),
}

impl Packing {
    /// The packing of a file that begins with `head`.
    pub(super) fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // The second is a frame that readers skip, with which some programs begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            // A block, or the end of an empty file.
            [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x31,
                0x41,
                0x59,
                0x26,
                0x53,
                0x59,
            ]
            | [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x17,
                0x72,
                0x45,
                0x38,
                0x50,
                0x90,
            ] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Foreign("LZ4"),
            [b'P', b'K', 3, 4, ..] => Self::Foreign("zip"),
            [b'7', b'z', 0xbc, 0xaf, 0x27, 0x1c, ..] => Self::Foreign("7z"),
            [b'R', b'a', b'r', b'!', 0x1a, 7, ..] => Self::Foreign("RAR"),
            _ => Self::None,
        }
    }

    /// What it is called.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("Zstandard"),
            Self::Bzip2 => Some("bzip2"),
            Self::Xz => Some("xz"),
            Self::Foreign(name) => Some(name),
        }
    }

    /// The unpacked bytes of `packed`; unchanged if nothing is packed or the format is not read.
    pub(super) fn unpacked(
        self,
        packed: impl BufRead + Send + 'static,
    ) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::None | Self::Foreign(_) => Box::new(packed),
            Self::Gzip => Box::new(GzipMembers::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed)?;
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Self::Bzip2 => Box::new(MultiBzDecoder::new(packed)),
            Self::Xz => Box::new(XzReader::new_mem_limit(packed, true, MAX_XZ_KIB)),
        })
    }
}

/// The members of a gzip file, one after the other. Zeros after a member are padding, as for Python and
/// gzip itself.
struct GzipMembers<R> {
    /// `None` at the end.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> GzipMembers<R> {
    fn new(packed: R) -> Self {
        Self {
            member: Some(GzDecoder::new(packed)),
        }
    }
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let n_bytes = member.read(buffer)?;
            if n_bytes > 0 || buffer.is_empty() {
                return Ok(n_bytes);
            }
            let rest = self.member.take().map(GzDecoder::into_inner);
            if let Some(mut rest) = rest
                && skip_zeros(&mut rest)?
            {
                self.member = Some(GzDecoder::new(rest));
            }
        }
        Ok(0)
    }
}

/// Whether there is something after the zeros to come, which are skipped.
fn skip_zeros(bytes: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let chunk = bytes.fill_buf()?;
        if chunk.is_empty() {
            return Ok(false);
        }
        let n_zeros = chunk.iter().take_while(|byte| **byte == 0).count();
        let is_something = n_zeros < chunk.len();
        bytes.consume(n_zeros);
        if is_something {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::samples::{Sample, assert_ends, assert_error, bzip2ed, gzipped, texts, zstandard};

    const CONTENT: &[u8] = b"{\"text\": \"a\"}\n";

    /// `CONTENT` as Python's `lzma.compress` packs it.
    const XZ: &[u8] = include_bytes!("../../../tests/fixtures/line.jsonl.xz");

    #[test]
    fn first_bytes_tell_the_packing_whatever_the_name() {
        let packed = [
            gzipped(CONTENT),
            zstandard(CONTENT),
            bzip2ed(CONTENT),
            XZ.to_vec(),
            CONTENT.to_vec(),
        ];
        for name in ["gz", "zst", "zstd", "bz2", "xz", "bak"].map(|end| format!("a.jsonl.{end}")) {
            for packed in &packed {
                assert_eq!(texts(&name, packed).unwrap(), ["a"], "{name}");
            }
        }
        let csv = gzipped(b"text\nb\n");
        assert_eq!(texts("a.csv", &csv).unwrap(), ["b"]);
        assert_eq!(texts("a.txt", &bzip2ed(b"c\n")).unwrap(), ["c"]);
    }

    #[test]
    fn packed_files_may_be_joined_and_padded() {
        let zeros = [0; 70_000].as_slice();
        let twice = |one: &[u8]| [one, one].concat();
        for (packed, n_texts) in [
            ([&gzipped(CONTENT)[..], zeros].concat(), 1),
            (
                [&gzipped(CONTENT)[..], &zeros[..3], &gzipped(CONTENT)].concat(),
                2,
            ),
            (twice(&gzipped(CONTENT)), 2),
            (twice(&zstandard(CONTENT)), 2),
            (twice(&bzip2ed(CONTENT)), 2),
            ([&twice(XZ)[..], &zeros[..8]].concat(), 2),
            (
                [&b"\x50\x2a\x4d\x18\x01\0\0\0x"[..], &zstandard(CONTENT)].concat(),
                1,
            ),
        ] {
            assert_eq!(texts("a.jsonl", &packed).unwrap().len(), n_texts);
        }
        assert!(texts("a.jsonl", &bzip2ed(b"")).unwrap().is_empty());
    }

    #[test]
    fn packed_files_that_are_cut_short_are_damaged() {
        let rest = [&gzipped(CONTENT)[..], b"rest"].concat();
        assert_error("a.jsonl", &rest, "is not a readable gzip file");
        for (packed, format) in [
            (gzipped(CONTENT), "gzip"),
            (zstandard(CONTENT), "Zstandard"),
            (bzip2ed(CONTENT), "bzip2"),
            (XZ.to_vec(), "xz"),
        ] {
            let cut = &packed[..packed.len() - 5];
            let message = format!("a.jsonl` is not a readable {format} file");
            assert_error("a.jsonl", cut, &message);
        }
        for name in ["a.jsonl.gz", "a.csv.xz", "a.txt.zstd"] {
            assert_error(name, b"", "is not a readable packed file");
        }
    }

    #[test]
    fn other_packings_are_named() {
        for (head, packing) in [
            (&b"\x04\x22\x4d\x18 and more"[..], "LZ4"),
            (b"PK\x03\x04 and more", "zip"),
            (b"7z\xbc\xaf\x27\x1c and more", "7z"),
            (b"Rar!\x1a\x07 and more", "RAR"),
        ] {
            let message = format!("a.jsonl` is packed with {packing}, which is not read");
            assert_error("a.jsonl", head, &message);
        }
    }

    #[test]
    fn token_ids_are_never_taken_for_packed() {
        let sample = Sample::new(&[("a.bin", b"\x1f\x8b\x04\x22PK")]);
        assert_eq!(sample.token_ids().unwrap(), [[0x8b1f, 0x2204, 0x4b50]]);
        let text = Sample::new(&[("a.txt", b"BZh9, a text\n")]);
        assert_eq!(text.texts().unwrap(), ["BZh9, a text"]);
        assert_ends(
            &Sample::new(&[("a.parquet", &gzipped(b"PAR1"))]).error(),
            "is a packed Parquet file",
        );
    }
}
