//! What `sae-run doctor --gpu` asks a worker for.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Which GPU to look at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GpuTask {
    /// `auto`, `cuda` or `cuda:N`.
    pub device: String,
    /// Folder of the cache, for compiled kernels.
    pub cache_dir: PathBuf,
    /// The sizes that kernels are measured at.
    pub shape: UpdateShape,
}

/// Sizes of an SAE's update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateShape {
    /// Tokens.
    pub n_tokens: usize,
    /// Latents.
    pub num_latents: usize,
    /// Width of the activations.
    pub d_in: usize,
    /// Active latents of a token.
    pub k: usize,
}

impl UpdateShape {
    /// For people.
    pub fn in_words(&self) -> String {
        let Self {
            n_tokens,
            num_latents,
            d_in,
            k,
        } = self;
        format!("{n_tokens} tokens, {num_latents} latents, d_in {d_in}, k {k}")
    }
}

impl fmt::Display for UpdateShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            n_tokens,
            num_latents,
            d_in,
            k,
        } = self;
        write!(f, "{n_tokens},{num_latents},{d_in},{k}")
    }
}

impl FromStr for UpdateShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers: Result<Vec<usize>, _> =
            text.split(',').map(|part| part.trim().parse()).collect();
        match numbers.as_deref() {
            Ok([n_tokens, num_latents, d_in, k]) if *n_tokens.min(d_in).min(k) > 0 && k <= num_latents => {
                Ok(Self {
                    n_tokens: *n_tokens,
                    num_latents: *num_latents,
                    d_in: *d_in,
                    k: *k,
                })
            }
            _ => Err(
                "expected four numbers above 0: tokens, latents, d_in and k, which is at most the number of latents; \
                 as 4096,32768,2304,64"
                    .into(),
            ),
        }
    }
}

/// What was found of a GPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuReport {
    /// There is no GPU, or libtorch cannot use it.
    NoGpu {
        /// What is missing.
        reason: String,
    },
    /// What it can do.
    Found(Box<GpuFound>),
}

/// A GPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GpuFound {
    /// Its name in options, such as `cuda:0`.
    pub device: String,
    /// Bytes a second that a copy within its memory reads and writes.
    pub copied_bytes_s: f64,
    /// Operations a second of a matrix product, by the kind of its numbers.
    pub product_flop_s: Vec<(String, f64)>,
    /// The kernels.
    pub kernels: KernelsFound,
}

/// The project's own kernels on a GPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelsFound {
    /// None can be used.
    Unusable {
        /// Why.
        reason: String,
    },
    /// Each was looked at.
    Checked {
        /// The GPU as the driver names it, with its capability and the driver's version.
        card: String,
        /// What did not go as it should.
        notes: Vec<String>,
        /// All of them.
        kernels: Vec<KernelFound>,
    },
}

/// A kernel on a GPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KernelFound {
    /// Its name.
    pub name: String,
    /// Why it is not used; `None`: it computes what libtorch does.
    pub rejection: Option<String>,
    /// Its seconds, and those of libtorch's operations; `None`: it was not measured.
    pub seconds: Option<[f64; 2]>,
    /// Seconds of a copy that moves as many bytes as it has to.
    pub least_s: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_four_numbers() {
        let shape: UpdateShape = "4096, 32768,2304,64".parse().unwrap();
        assert_eq!(shape.to_string(), "4096,32768,2304,64");
        for text in [
            "",
            "1,2,3",
            "1,2,3,4,5",
            "0,2,3,1",
            "1,2,3,4",
            "a,2,3,1",
            "-1,2,3,1",
        ] {
            assert!(text.parse::<UpdateShape>().is_err(), "{text}");
        }
    }
}
