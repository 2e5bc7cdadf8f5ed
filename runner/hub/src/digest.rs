//! Whether a file is the one that the Hub has, by the name that the Hub gives its content.

use crate::name::is_hex;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const BUFFER_BYTES: usize = 1 << 20;

/// The Hub's name for the content of a file, which is also its name in the cache: SHA-256 in
/// hexadecimal digits for large files (LFS), git's SHA-1 for small ones. Mirrors may have
/// other names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Etag(String);

impl Etag {
    /// `None` for what cannot be the name of a file.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        crate::name::is_file_name(text).then(|| Self(text.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// With its kind in front, `sha256:` or `git:`; `None`: it is not a hash.
    pub(crate) fn content_hash(&self) -> Option<String> {
        let digits = self.0.to_ascii_lowercase();
        Some(format!("{}:{digits}", self.hash()?.kind()))
    }

    /// The name in what [`Etag::content_hash`] gives.
    pub(crate) fn of_content_hash(text: &str) -> Option<Self> {
        let (_, digits) = text.split_once(':')?;
        let etag = Self::parse(digits)?;
        (etag.content_hash()? == text).then_some(etag)
    }

    /// How the content must hash, if the name says so.
    fn hash(&self) -> Option<Hash> {
        let text = self.0.as_str();
        match () {
            () if is_hex(text, 64) => Some(Hash::Sha256),
            () if is_hex(text, 40) => Some(Hash::GitSha1),
            () => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha256,
    /// Of a header with the length, then the content: git's name of a blob.
    GitSha1,
}

impl Hash {
    fn kind(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::GitSha1 => "git",
        }
    }
}

/// How the file at `path` differs, in words, from the one that the Hub calls `etag`; `None` if it does not.
/// `n_bytes`: its length, if that is known.
pub(crate) fn damage(path: &Path, etag: &Etag, n_bytes: Option<u64>) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    let got = file.metadata()?.len();
    if let Some(expected) = n_bytes.filter(|&expected| expected != got) {
        return Ok(Some(length_damage(expected, got)));
    }
    let Some(hash) = etag.hash() else {
        return Ok(None);
    };
    let found = match hash {
        Hash::Sha256 => hex_digest(Sha256::new(), file)?,
        Hash::GitSha1 => hex_digest(Sha1::new_with_prefix(format!("blob {got}\0")), file)?,
    };
    let is_same = found.eq_ignore_ascii_case(etag.as_str());
    Ok((!is_same).then(|| format!("its hash is not {}", etag.as_str())))
}

/// What is wrong with a file that has `got` bytes.
pub(crate) fn length_damage(expected: u64, got: u64) -> String {
    format!("{got} bytes instead of {expected}")
}

pub(crate) fn hex_digest(mut hasher: impl Digest, file: impl Read) -> io::Result<String> {
    read_parts(file, |part| hasher.update(part))?;
    Ok(hex(&hasher.finalize()))
}

/// Reads to the end, and gives what was read to `on_part`, part by part.
pub(crate) fn read_parts(mut file: impl Read, mut on_part: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n_read) => on_part(&buffer[..n_read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `printf 'hello\n' | git hash-object --stdin` and `| sha256sum`.
    const GIT: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
    const SHA256: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    fn damage_of(content: &str, etag: &str, n_bytes: Option<u64>) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, content).unwrap();
        damage(&path, &Etag::parse(etag).unwrap(), n_bytes).unwrap()
    }

    #[test]
    fn both_hashes_are_known() {
        for etag in [GIT, SHA256, &format!("W/\"{GIT}\""), &SHA256.to_uppercase()] {
            assert_eq!(damage_of("hello\n", etag, Some(6)), None, "{etag}");
            assert_eq!(damage_of("hello\n", etag, None), None, "{etag}");
        }
        for etag in [GIT, SHA256] {
            let damage = damage_of("hellO\n", etag, Some(6));
            assert_eq!(damage, Some(format!("its hash is not {etag}")));
        }
    }

    #[test]
    fn the_length_counts_where_it_is_known() {
        let damage = damage_of("hello\n", GIT, Some(7));
        assert_eq!(damage.as_deref(), Some("6 bytes instead of 7"));
    }

    #[test]
    fn a_name_of_another_kind_leaves_the_length() {
        assert_eq!(damage_of("hello\n", "5d41402a-1", Some(6)), None);
        assert!(damage_of("hello\n", "5d41402a-1", Some(5)).is_some());
    }

    #[test]
    fn hashes_say_their_kind() {
        for (etag, expected) in [
            (GIT.to_owned(), format!("git:{GIT}")),
            (SHA256.to_uppercase(), format!("sha256:{SHA256}")),
        ] {
            let hash = Etag::parse(&etag).unwrap().content_hash();
            assert_eq!(hash.as_ref(), Some(&expected));
            let back = Etag::of_content_hash(&expected).unwrap();
            assert_eq!(back.as_str(), etag.to_lowercase());
        }
        assert_eq!(Etag::parse("5d41402a-1").unwrap().content_hash(), None);
        for text in ["", GIT, &format!("sha256:{GIT}"), "git:", "git:../x"] {
            assert_eq!(Etag::of_content_hash(text), None, "{text}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for text in ["", "\"\"", "../x", "a/b", "W/\"../x\"", "a b"] {
            assert_eq!(Etag::parse(text), None, "{text}");
        }
    }
}
