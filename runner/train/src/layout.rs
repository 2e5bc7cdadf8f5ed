//! How SAEs are stored.

use std::fmt;

/// How an SAE is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// `cfg.json` and `sae.safetensors`, as Python's sparsify reads them.
    Sparsify,
    /// `cfg.json` and `sae_weights.safetensors`, as SAELens reads them.
    SaeLens,
}

impl Layout {
    /// Its name in options and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sparsify => "sparsify",
            Self::SaeLens => "saelens",
        }
    }

    /// Its files.
    pub fn files(self) -> [&'static str; 2] {
        match self {
            Self::Sparsify => [sae::CONFIG_FILE, sae::WEIGHTS_FILE],
            Self::SaeLens => [sae::CONFIG_FILE, sae::SAELENS_WEIGHTS_FILE],
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
