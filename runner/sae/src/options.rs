//! How SAEs are loaded.

#[cfg(feature = "hub")]
use hub::Hub;
use tch::{Device, Kind};

/// How SAEs are loaded. A [`Device`] converts to the defaults on that device.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where the weights go. On the CPU they stay in the file, mapped into memory, unless `kind` is
    /// another than the file's.
    pub device: Device,
    /// What the weights become. `None`: what the folder says, which is the weights' own in sparsify's
    /// layout, and `dtype` of `cfg.json` in SAELens's.
    pub kind: Option<Kind>,
    /// Whether the decoder is loaded. Without it an SAE encodes only. A crosscoder with a threshold for each hookpoint
    /// needs it for that, too, and has it always.
    pub decoder: bool,
    /// Which of several SAEs, as shell patterns of their names; as in sparsify, `*` crosses dots and
    /// slashes. Empty: all.
    pub patterns: Vec<String>,
    /// Branch, tag or commit of a repository on the Hub; `None`: `main`.
    pub revision: Option<String>,
    /// Take what is in the cache, without a request to the Hub.
    pub offline: bool,
    /// The Hub; `None`: the one that the environment names, as for Python's huggingface_hub.
    #[cfg(feature = "hub")]
    pub hub: Option<Hub>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            kind: None,
            decoder: true,
            patterns: Vec::new(),
            revision: None,
            offline: false,
            #[cfg(feature = "hub")]
            hub: None,
        }
    }
}

impl From<Device> for LoadOptions {
    fn from(device: Device) -> Self {
        Self {
            device,
            ..Self::default()
        }
    }
}
