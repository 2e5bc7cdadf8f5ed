//! The header of a safetensors file with an SAE's weights.

use crate::error::{FOLDER_HINT, io_fault, listed};
use fault::Fault;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of the header's length, at the start of the file.
const LENGTH_BYTES: u64 = size_of::<u64>() as u64;

/// The longest header that Python's library reads.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// For a file that is damaged.
const WHOLE_HINT: &str = "was it downloaded or copied whole?";

/// The entry of a header that is no tensor.
const METADATA: &str = "__metadata__";

/// A header that fits its file: no tensor is outside the data or overlaps another.
#[derive(Debug)]
pub struct Header {
    path: PathBuf,
    n_bytes: u64,
    data_start: u64,
    entries: BTreeMap<String, Entry>,
}

/// What a weight's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// float64
    F64,
    /// float32
    F32,
    /// float16
    F16,
    /// bfloat16
    BF16,
}

impl Width {
    fn n_bytes(self) -> u64 {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// Where the numbers of a weight are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What they are.
    pub width: Width,
    /// The first byte in the file.
    pub start: u64,
    /// How many bytes they have.
    pub n_bytes: u64,
}

/// What the header says of a tensor.
#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    /// Within the data.
    data_offsets: (u64, u64),
}

impl Header {
    /// Reads the header of a file and checks it.
    ///
    /// # Errors
    /// A file that cannot be read, is no safetensors file, or has a tensor that cannot be.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let file = files::open(path).map_err(io_fault("read", path))?;
        let n_bytes = file.metadata().map_err(io_fault("read", path))?.len();
        let (entries, data_start) = read_header(path, &file, n_bytes)?;
        check_offsets(path, &entries, n_bytes - data_start)?;
        Ok(Self {
            path: path.into(),
            n_bytes,
            data_start,
            entries,
        })
    }

    /// Length of the file, in bytes.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Where the tensors' data begins, in bytes.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Whether there is a tensor called `tensor`.
    pub fn has(&self, tensor: &str) -> bool {
        self.entries.contains_key(tensor)
    }

    /// Refuses a file with other tensors than those called `used`: without them the SAE would compute
    /// something else than it was trained to.
    ///
    /// # Errors
    /// Such a file.
    pub fn refuse_others(&self, used: &[&str]) -> Result<(), Fault> {
        let is_unused = |name: &&String| !used.contains(&name.as_str());
        let unused: Vec<String> = self.entries.keys().filter(is_unused).cloned().collect();
        if unused.is_empty() {
            Ok(())
        } else {
            let (path, tensors) = (self.path.display(), listed(":", &unused));
            let message =
                format!("`{path}` has tensors that its `cfg.json` has no use for{tensors}");
            Err(Fault::input(message).with_hint(
                    "without them it would compute something else: is `cfg.json` of another SAE, or does it name \
                     another kind?",
                ))
        }
    }

    /// Where the weights called `tensor` are, of the shape `expected`.
    ///
    /// # Errors
    /// No such tensor, another shape, or numbers that are no weights.
    pub fn weights(&self, tensor: &'static str, expected: &[i64]) -> Result<Place, Fault> {
        let path = self.path.display();
        let entry = self.entries.get(tensor).ok_or_else(|| {
            Fault::input(format!("`{path}` has no tensor `{tensor}`")).with_hint(FOLDER_HINT)
        })?;
        let width = entry.width().ok_or_else(|| {
            let got = &entry.dtype;
            let message = format!(
                "tensor `{tensor}` of `{path}` has dtype {got}, expected F16, BF16, F32 or F64"
            );
            Fault::input(message).with_hint(WHOLE_HINT)
        })?;
        let got: Vec<i64> = entry.shape.iter().map(|&n| n as i64).collect();
        if got != expected {
            let message =
                format!("tensor `{tensor}` of `{path}` has shape {got:?}, expected {expected:?}");
            return Err(Fault::input(message)
                .with_hint("`cfg.json` and the weights do not belong together"));
        }
        let (start, end) = entry.data_offsets;
        Ok(Place {
            width,
            start: self.data_start + start,
            n_bytes: end - start,
        })
    }
}

impl Entry {
    fn width(&self) -> Option<Width> {
        match self.dtype.as_str() {
            "F64" => Some(Width::F64),
            "F32" => Some(Width::F32),
            "F16" => Some(Width::F16),
            "BF16" => Some(Width::BF16),
            _ => None,
        }
    }

    /// What is wrong with the place of a tensor; `next`: where the one before it ends.
    fn problem(&self, next: u64, n_data_bytes: u64) -> Option<String> {
        let (start, end) = self.data_offsets;
        if start > end || end > n_data_bytes {
            return Some(format!(
                "is at bytes {start} to {end} of the data, of which there are {n_data_bytes}"
            ));
        }
        if start != next {
            return Some(format!(
                "begins at byte {start} of the data, where byte {next} is the next"
            ));
        }
        // Of other kinds, no tensor is asked for.
        let n_bytes_each = self.width()?.n_bytes();
        let n_numbers = self
            .shape
            .iter()
            .try_fold(1, |n: u64, &of| n.checked_mul(of));
        match n_numbers.and_then(|n| n.checked_mul(n_bytes_each)) {
            Some(expected) if expected == end - start => None,
            _ => Some(format!(
                "has {} bytes, which its shape {:?} and dtype {} do not give",
                end - start,
                self.shape,
                self.dtype
            )),
        }
    }
}

/// The entries of the header, and where the data begins.
fn read_header(
    path: &Path,
    mut file: &File,
    n_bytes: u64,
) -> Result<(BTreeMap<String, Entry>, u64), Fault> {
    let no_file = |problem: String| not_whole(path, &problem);
    let mut length = [0; LENGTH_BYTES as usize];
    if n_bytes < LENGTH_BYTES {
        return Err(no_file("it is shorter than the length of a header".into()));
    }
    let read = file.read_exact(&mut length);
    read.map_err(io_fault("read", path))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES.min(n_bytes - LENGTH_BYTES) {
        return Err(no_file(format!("its header claims {length} bytes")));
    }
    let mut header = vec![0; length as usize];
    let read = file.read_exact(&mut header);
    read.map_err(io_fault("read", path))?;
    let mut header: Map<String, Value> =
        serde_json::from_slice(&header).map_err(|error| no_file(error.to_string()))?;
    header.remove(METADATA);
    let entry = |(tensor, entry)| match serde_json::from_value(entry) {
        Ok(entry) => Ok((tensor, entry)),
        Err(error) => Err(no_file(format!("`{tensor}` is described wrongly: {error}"))),
    };
    let entries = header.into_iter().map(entry).collect::<Result<_, _>>()?;
    Ok((entries, LENGTH_BYTES + length))
}

fn check_offsets(
    path: &Path,
    entries: &BTreeMap<String, Entry>,
    n_data_bytes: u64,
) -> Result<(), Fault> {
    let bad = |tensor: &str, problem: String| {
        Fault::input(format!(
            "tensor `{tensor}` of `{}` {problem}",
            path.display()
        ))
        .with_hint(WHOLE_HINT)
    };
    let mut in_order: Vec<_> = entries.iter().collect();
    in_order.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut next = 0;
    for (tensor, entry) in in_order {
        if let Some(problem) = entry.problem(next, n_data_bytes) {
            return Err(bad(tensor, problem));
        }
        next = entry.data_offsets.1;
    }
    if next == n_data_bytes {
        Ok(())
    } else {
        let problem = format!("its tensors have {next} bytes, and it has {n_data_bytes}");
        Err(not_whole(path, &problem))
    }
}

/// A file that is no safetensors file, or not all of one.
fn not_whole(path: &Path, problem: &str) -> Fault {
    let path = path.display();
    Fault::input(format!("`{path}` is no whole safetensors file: {problem}")).with_hint(WHOLE_HINT)
}
