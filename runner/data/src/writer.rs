//! Writing token files.

use crate::header::{HEADER_BYTES, Header};
use std::io::{BufWriter, Seek, Write};
use tempfile::NamedTempFile;

/// Writes sequences after a header that is filled in at the end.
pub(crate) struct TokenWriter {
    file: BufWriter<NamedTempFile>,
    id_bytes: u32,
    ctx_len: u64,
}

impl TokenWriter {
    pub(crate) fn new(
        file: NamedTempFile,
        ctx_len: usize,
        vocab_size: usize,
    ) -> std::io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&[0; HEADER_BYTES])?;
        let id_bytes = if vocab_size <= 1 << 16 { 2 } else { 4 };
        Ok(Self {
            file,
            id_bytes,
            ctx_len: ctx_len as u64,
        })
    }

    pub(crate) fn append(&mut self, sequences: &[Vec<u32>]) -> std::io::Result<()> {
        let id_bytes = self.id_bytes as usize;
        for id in sequences.iter().flatten() {
            self.file.write_all(&id.to_le_bytes()[..id_bytes])?;
        }
        Ok(())
    }

    pub(crate) fn finish(
        self,
        n_sequences: u64,
        digest: [u8; 32],
    ) -> std::io::Result<NamedTempFile> {
        let Self {
            file,
            id_bytes,
            ctx_len,
        } = self;
        let mut file = file.into_inner()?;
        file.rewind()?;
        file.write_all(
            &Header {
                id_bytes,
                ctx_len,
                n_sequences,
                digest,
            }
            .to_bytes(),
        )?;
        file.as_file().sync_all()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tokens;
    use crate::fixtures::folder_with;

    #[test]
    fn ids_keep_their_value_in_two_and_four_bytes() {
        for (vocab_size, id, n_bytes) in [(1 << 16, 65_535, 2), ((1 << 16) + 1, 65_536, 4)] {
            let folder = folder_with(&[]);
            let file = NamedTempFile::new_in(folder.path()).unwrap();
            let mut writer = TokenWriter::new(file, 3, vocab_size).unwrap();
            writer.append(&[vec![0, 1, 2], vec![id, 256, id]]).unwrap();
            let file = writer.finish(2, [7; 32]).unwrap();
            assert_eq!(file.path().metadata().unwrap().len(), 96 + 6 * n_bytes);
            let tokens = Tokens::open(file.path(), &[7; 32]).unwrap().unwrap();
            let id = i64::from(id);
            assert_eq!(
                [tokens.sequence(0), tokens.sequence(1)],
                [[0, 1, 2], [id, 256, id]]
            );
        }
    }
}
