//! `cfg.json` and the tensors next to it, in sparsify's layout.

use crate::SaeConfig;
use crate::error::{FOLDER_HINT, io_fault, unsupported};
use fault::Fault;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Name of the settings' file.
pub const CONFIG_FILE: &str = "cfg.json";
/// Name of the weights' file.
pub const WEIGHTS_FILE: &str = "sae.safetensors";

/// The weights of every SAE.
const WEIGHTS: [&str; 4] = ["encoder.weight", "encoder.bias", "W_dec", "b_dec"];

/// Longest `cfg.json` that is read.
pub(crate) const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What `cfg.json` holds, with what sparsify's predecessor knew and sparsify ignores.
#[derive(Deserialize)]
struct ConfigOnDisk {
    #[serde(flatten)]
    cfg: SaeConfig,
    signed: Option<bool>,
}

impl SaeConfig {
    /// Reads `cfg.json` of a folder in sparsify's layout.
    ///
    /// # Errors
    /// A missing or damaged file, sizes that no SAE has, or a setting of another kind of SAE.
    pub fn of_folder(dir: &Path) -> Result<Self, Fault> {
        let path = dir.join(CONFIG_FILE);
        let ConfigOnDisk { cfg, signed } = read_config(&path)?;
        if signed == Some(true) {
            return Err(unsupported(
                &path,
                "signed",
                "true",
                "its latents may be negative",
            ));
        }
        cfg.check_sizes()?;
        Ok(cfg)
    }

    /// The tensors of such an SAE, by their names in sparsify's layout.
    pub fn tensors(&self) -> Vec<&'static str> {
        let skip = self.skip_connection.then_some("W_skip");
        WEIGHTS.into_iter().chain(skip).collect()
    }

    /// The shape of a tensor that [`SaeConfig::tensors`] names.
    pub fn shape(&self, tensor: &str) -> Vec<i64> {
        let [num_latents, d_in, d_out] =
            [self.resolved_num_latents(), self.d_in, self.d_out()].map(|n| n as i64);
        match tensor {
            "encoder.weight" => vec![num_latents, d_in],
            "encoder.bias" => vec![num_latents],
            "W_dec" => vec![num_latents, d_out],
            "W_skip" => vec![d_out, d_in],
            _ => vec![d_out],
        }
    }
}

/// Reads a `cfg.json`, which anyone may have written.
///
/// # Errors
/// A missing or damaged file.
pub fn read_config<T: DeserializeOwned>(path: &Path) -> Result<T, Fault> {
    let text = files::read(path, MAX_CONFIG_BYTES).map_err(io_fault("read", path))?;
    files::from_json(&text).map_err(|error| {
        let fault = Fault::input(format!("`{}` is not an SAE configuration", path.display()));
        fault.with_hint(FOLDER_HINT).because(error)
    })
}
