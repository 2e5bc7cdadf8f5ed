//! For tests of what reads files and messages of others: files, and bytes that no one wrote on purpose.
//! `make fuzz` runs those whose names begin with `any_bytes`.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Bytes that nest, or make a number or a line long.
const REPEATED: &[u8] = b"[{9\"(\n, ";

/// How often a byte is repeated: deeper than any parser should go.
const N_REPEATED: usize = 300;

#[derive(Clone, Debug)]
enum Damage {
    Replace(Index, u8),
    Remove(Index),
    Insert(Index, u8),
    Repeat(Index, u8),
    /// What is between two positions is repeated.
    Double(Index, Index),
    Cut(Index),
    /// A number becomes another one.
    Number(Index, u64),
}

/// The path of a file in `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
}

/// A temporary folder with the given files.
pub fn folder_with(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).expect("its files can be written");
    }
    folder
}

/// Any bytes, and `sound` ones with some damage; few of them stay sound.
pub fn any_bytes(sound: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damaged = (select(sound), vec(damage(), 0..5)).prop_map(|(mut bytes, damages)| {
        for damage in damages {
            damage.apply(&mut bytes);
        }
        bytes
    });
    prop_oneof![1 => vec(any::<u8>(), 0..300), 4 => damaged]
}

/// The same as text.
pub fn any_bytes_of_text(sound: &[&str]) -> impl Strategy<Value = String> {
    let sound = sound.iter().map(|text| text.as_bytes().to_vec()).collect();
    any_bytes(sound).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    let number = prop_oneof![any::<u64>(), 0..9_u64, (0..64_u32).prop_map(|bit| 1 << bit)];
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        at().prop_map(Damage::Remove),
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        (at(), select(REPEATED)).prop_map(|(at, byte)| Damage::Repeat(at, byte)),
        (at(), at()).prop_map(|(start, end)| Damage::Double(start, end)),
        at().prop_map(Damage::Cut),
        (at(), number).prop_map(|(at, number)| Damage::Number(at, number)),
    ]
}

impl Damage {
    fn apply(self, bytes: &mut Vec<u8>) {
        let index = |at: Index| at.index(bytes.len() + 1);
        let byte = |at: Index| (!bytes.is_empty()).then(|| at.index(bytes.len()));
        match self {
            Self::Replace(at, with) => {
                if let Some(idx) = byte(at) {
                    bytes[idx] = with;
                }
            }
            Self::Remove(at) => {
                if let Some(idx) = byte(at) {
                    bytes.remove(idx);
                }
            }
            Self::Insert(at, byte) => bytes.insert(index(at), byte),
            Self::Repeat(at, byte) => {
                let idx = index(at);
                bytes.splice(idx..idx, std::iter::repeat_n(byte, N_REPEATED));
            }
            Self::Double(start, end) => {
                let (start, end) = (index(start), index(end));
                let doubled = bytes[start.min(end)..start.max(end)].to_vec();
                let idx = start.max(end);
                bytes.splice(idx..idx, doubled);
            }
            Self::Cut(at) => bytes.truncate(index(at)),
            Self::Number(at, number) => replace_number(bytes, at, number),
        }
    }
}

/// Replaces a number that is written in decimal with `number`.
fn replace_number(bytes: &mut Vec<u8>, at: Index, number: u64) {
    let is_digit = |idx: &usize| bytes[*idx].is_ascii_digit();
    let is_start = |idx: &usize| is_digit(idx) && (*idx == 0 || !is_digit(&(idx - 1)));
    let starts: Vec<_> = (0..bytes.len()).filter(is_start).collect();
    if starts.is_empty() {
        return;
    }
    let start = starts[at.index(starts.len())];
    let n_digits = (start..bytes.len()).take_while(is_digit).count();
    bytes.splice(start..start + n_digits, number.to_string().into_bytes());
}
