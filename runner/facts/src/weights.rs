//! The tensors of a model folder: one safetensors file, or shards with an index. Headers are read
//! and checked when a file is opened, data only when a tensor is asked for.

use crate::FactsError;
use crate::error::{INCOMPLETE, unreadable_shard};
use crate::json::read_json;
use crate::layout::TensorSpec;
use crate::missing::{dtype_hint, missing, quantised, quantised_by};
use crate::mmap::map_file;
use fault::Fault;
use files::TensorHeader;
use memmap2::Mmap;
use plan::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// The safetensors files of a model folder, the index of the shards first. All are there.
pub(crate) fn safetensors_files(model_dir: &Path) -> Result<Vec<PathBuf>, FactsError> {
    match Source::find(model_dir)? {
        Source::Single(path) => Ok(vec![path]),
        Source::Sharded { index, weight_map } => {
            let shards = shards(weight_map)?;
            Ok([index].into_iter().chain(shards).collect())
        }
    }
}

/// The shards, each once and there, in order.
fn shards(weight_map: HashMap<String, PathBuf>) -> Result<Vec<PathBuf>, FactsError> {
    let mut first_tensor = BTreeMap::new();
    for (tensor, path) in weight_map.into_iter().collect::<BTreeMap<_, _>>() {
        first_tensor.entry(path).or_insert(tensor);
    }
    let there = |(path, tensor): (PathBuf, String)| match path.metadata() {
        Ok(_) => Ok(path),
        Err(source) => Err(unreadable_shard(&path, &tensor, source).into()),
    };
    first_tensor.into_iter().map(there).collect()
}

/// Where the tensors of a model are.
enum Source {
    Single(PathBuf),
    Sharded {
        index: PathBuf,
        weight_map: HashMap<String, PathBuf>,
    },
}

impl Source {
    /// As transformers, prefers the single file.
    fn find(model_dir: &Path) -> Result<Self, FactsError> {
        let single = model_dir.join(SINGLE_FILE);
        if single.exists() {
            return Ok(Self::Single(single));
        }
        let index = model_dir.join(INDEX_FILE);
        if !index.exists() {
            return Err(no_weights(model_dir).into());
        }
        let weight_map = read_index(model_dir, &index)?;
        Ok(Self::Sharded { index, weight_map })
    }
}

fn no_weights(model_dir: &Path) -> Fault {
    let found = other_weights(model_dir);
    let but = found
        .as_ref()
        .map_or(String::new(), |found| format!(", but `{found}`"));
    let hint = match found.as_deref() {
        Some(shard) if shard.starts_with("model-") => {
            "the index of the shards is missing: fetch the model's files again"
        }
        Some(gguf) if gguf.ends_with(".gguf") => "take the original checkpoint, as safetensors",
        _ => "save the model again with transformers, as safetensors",
    };
    let dir = model_dir.display();
    Fault::input(format!(
        "no `{SINGLE_FILE}` and no `{INDEX_FILE}` in `{dir}`{but}"
    ))
    .with_hint(hint)
}

/// A file of `model_dir` that may hold weights in another form, or a shard without an index.
fn other_weights(model_dir: &Path) -> Option<String> {
    const ENDS: [&str; 4] = [".safetensors", ".bin", ".gguf", ".pth"];
    let entries = std::fs::read_dir(model_dir).ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| ENDS.iter().any(|end| name.ends_with(end)))
        .min()
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// Which shard has which tensor.
fn read_index(model_dir: &Path, path: &Path) -> Result<HashMap<String, PathBuf>, FactsError> {
    let index: Index = read_json(path)?;
    let resolve = |(tensor, shard): (String, String)| {
        // A shard elsewhere could be any file of the machine.
        if Path::new(&shard).file_name() != Some(shard.as_ref()) {
            let path = path.display();
            return Err(Fault::input(format!(
                "`{path}` names the shard `{shard}`, which is not a plain file name"
            ))
            .into());
        }
        Ok((tensor, model_dir.join(shard)))
    };
    index.weight_map.into_iter().map(resolve).collect()
}

/// A mapped safetensors file whose header fits its length.
struct Shard {
    path: PathBuf,
    map: Mmap,
    header: TensorHeader,
}

impl Shard {
    fn open(path: &Path) -> Result<Self, FactsError> {
        let map = map_file(path)?;
        let header = TensorHeader::read(&map[..], map.len() as u64).map_err(|problem| {
            let path = path.display();
            Fault::input(format!(
                "`{path}` is not a valid safetensors file: {problem}"
            ))
            .with_hint(INCOMPLETE)
        })?;
        Ok(Self {
            path: path.into(),
            map,
            header,
        })
    }

    /// What the header says of a tensor, checked against the model's configuration.
    fn check(&self, name: &str, shape: &[usize]) -> Result<(&TensorInfo, Dtype), FactsError> {
        let info = self
            .header
            .info(name)
            .ok_or_else(|| missing(&self.path, name, &self.names()))?;
        let dtype = self.dtype_of(name, info)?;
        if info.shape != shape {
            let (path, got) = (self.path.display(), &info.shape);
            return Err(Fault::input(format!(
                "tensor `{name}` of `{path}` has shape {got:?}, expected {shape:?}"
            ))
            .with_hint("do config.json and the weights come from the same model?")
            .into());
        }
        Ok((info, dtype))
    }

    fn dtype_of(&self, name: &str, info: &TensorInfo) -> Result<Dtype, Fault> {
        let has = |name: &str| self.header.info(name).is_some();
        match (dtype_of(info.dtype), quantised_by(name, has)) {
            (Some(dtype), None) => Ok(dtype),
            (_, Some(scheme)) => Err(quantised(&self.path, name, scheme)),
            (None, None) => {
                let (path, got) = (self.path.display(), info.dtype.to_string());
                Err(Fault::input(format!(
                    "tensor `{name}` of `{path}` has dtype {got}, expected F32, BF16 or F16"
                ))
                .with_hint(dtype_hint(&self.path, &got)))
            }
        }
    }

    /// The bytes of a tensor; the header was checked against the file's length.
    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        let bytes = self.header.bytes_of(info);
        &self.map[bytes.start as usize..bytes.end as usize]
    }

    fn names(&self) -> Vec<String> {
        self.header.names().map(str::to_owned).collect()
    }
}

fn dtype_of(dtype: safetensors::Dtype) -> Option<Dtype> {
    match dtype {
        safetensors::Dtype::F32 => Some(Dtype::Float32),
        safetensors::Dtype::BF16 => Some(Dtype::BFloat16),
        safetensors::Dtype::F16 => Some(Dtype::Float16),
        _ => None,
    }
}

/// A tensor as stored in its file.
#[derive(Clone, Copy, Debug)]
pub struct StoredTensor<'a> {
    /// Its numbers, little-endian, row by row.
    pub bytes: &'a [u8],
    /// What they are.
    pub dtype: Dtype,
}

/// The tensors of a model folder.
pub struct Weights {
    source: Source,
    /// Shards opened so far: those that hold only later layers are never opened.
    shards: HashMap<PathBuf, Shard>,
}

impl Weights {
    /// Finds the files of a model, and opens them if there is one.
    ///
    /// # Errors
    /// No files, or a header or index that cannot be read.
    pub fn open(model_dir: &Path) -> Result<Self, FactsError> {
        let source = Source::find(model_dir)?;
        let mut shards = HashMap::new();
        if let Source::Single(path) = &source {
            shards.insert(path.clone(), Shard::open(path)?);
        }
        Ok(Self { source, shards })
    }

    /// Whether there is a tensor called `name`, by header or index.
    pub fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Single(path) => self.shards[path].header.info(name).is_some(),
            Source::Sharded { weight_map, .. } => weight_map.contains_key(name),
        }
    }

    /// The names of all tensors, in order, by header or index.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.source {
            Source::Single(path) => self.shards[path].names(),
            Source::Sharded { weight_map, .. } => weight_map.keys().cloned().collect(),
        };
        names.sort_unstable();
        names
    }

    /// The dtype in which a tensor is stored.
    ///
    /// # Errors
    /// As [`Weights::stored`].
    pub fn stored_dtype(&mut self, spec: &TensorSpec) -> Result<Dtype, FactsError> {
        let shard = self.shard_of(&spec.name)?;
        shard.check(&spec.name, &spec.shape).map(|(_, dtype)| dtype)
    }

    /// Checks presence, shape and dtype of a tensor by its header alone.
    ///
    /// # Errors
    /// As [`Weights::stored`].
    pub fn check(&mut self, spec: &TensorSpec) -> Result<(), FactsError> {
        self.stored_dtype(spec).map(|_| ())
    }

    /// A tensor as stored in its file, checked by its header.
    ///
    /// # Errors
    /// A file that cannot be read, or a tensor that is missing or wrong.
    pub fn stored(&mut self, spec: &TensorSpec) -> Result<StoredTensor<'_>, FactsError> {
        let shard = self.shard_of(&spec.name)?;
        let (info, dtype) = shard.check(&spec.name, &spec.shape)?;
        Ok(StoredTensor {
            bytes: shard.bytes(info),
            dtype,
        })
    }

    fn shard_of(&mut self, name: &str) -> Result<&Shard, FactsError> {
        let path = match &self.source {
            Source::Single(path) => path,
            Source::Sharded { index, weight_map } => {
                let names = || weight_map.keys().cloned().collect::<Vec<_>>();
                weight_map
                    .get(name)
                    .ok_or_else(|| missing(index, name, &names()))?
            }
        };
        if !self.shards.contains_key(path) {
            let shard = Shard::open(path).map_err(|error| error.in_shard_of(name))?;
            self.shards.insert(path.clone(), shard);
        }
        Ok(&self.shards[path])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TinyModel, tiny_llama};
    use files::testing::any_bytes;
    use proptest::prelude::*;

    /// The error of a model whose weights are `bytes`; it names the file.
    fn failure(bytes: &[u8]) -> FactsError {
        let model = TinyModel::copy();
        std::fs::write(model.weights(), bytes).unwrap();
        let error = Weights::open(model.dir()).err().unwrap();
        let path = model.weights();
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        error
    }

    fn bad_tensor(bytes: &[u8]) -> String {
        let message = failure(bytes).to_string();
        let (_, tensor) = message.split_once(": tensor `").unwrap();
        tensor.split_once('`').unwrap().0.to_owned()
    }

    fn with_header(header: &str, n_data_bytes: usize) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [length.as_slice(), header.as_bytes(), &vec![0; n_data_bytes]].concat()
    }

    #[test]
    fn a_truncated_file_names_the_tensor() {
        let whole = std::fs::read(tiny_llama().join("model.safetensors")).unwrap();
        // The data of the last tensor, in its order on disk.
        assert_eq!(bad_tensor(&whole[..whole.len() - 1]), "model.norm.weight");
        let cut_header = failure(&whole[..100]).to_string();
        assert!(cut_header.contains(": its header claims"), "{cut_header}");
    }

    proptest! {
        #[test]
        fn any_bytes_have_their_tensors_within_the_file_or_are_an_error(file in any_bytes(vec![with_header(
            r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [8, 12]}}"#,
            12,
        )])) {
            let n_bytes = file.len() as u64;
            if let Ok(header) = TensorHeader::read(file.as_slice(), n_bytes) {
                for name in header.names() {
                    let info = header.info(name).unwrap();
                    let bytes = header.bytes_of(info);
                    prop_assert!(bytes.start <= bytes.end && bytes.end <= n_bytes);
                    let n_elements: usize = info.shape.iter().product();
                    let n_bits = 8 * (bytes.end - bytes.start);
                    prop_assert_eq!(n_bits, (n_elements * info.dtype.bitsize()) as u64);
                }
            }
        }

        #[test]
        fn any_bytes_are_an_index_of_shards_in_the_folder_or_an_error(index in any_bytes(vec![
            br#"{"metadata": {"total_size": 8}, "weight_map": {"a": "x.safetensors", "b": "y"}}"#.to_vec(),
            br#"{"weight_map": {"a": "../x", "b": "/etc/passwd", "c": ".."}}"#.to_vec(),
        ])) {
            let folder = tempfile::tempdir().unwrap();
            for name in ["x.safetensors", "y"] {
                std::fs::write(folder.path().join(name), with_header("{}", 0)).unwrap();
            }
            std::fs::write(folder.path().join(INDEX_FILE), index).unwrap();
            for file in safetensors_files(folder.path()).into_iter().flatten() {
                prop_assert_eq!(file.parent(), Some(folder.path()));
            }
            if let Ok(mut weights) = Weights::open(folder.path()) {
                for name in weights.names() {
                    let spec = TensorSpec { name, shape: vec![2] };
                    prop_assert!(weights.stored(&spec).is_err());
                }
            }
        }
    }
}
