//! What a model computes in.

use crate::weights::kind_of;
use crate::{LmError, LoadOptions};
use facts::{ModelConfig, embedding_dtype};
use plan::Dtype;
use std::path::Path;
use tch::{Device, Kind};

/// The kind that `options` ask for. `auto` is the checkpoint's own on a GPU, or float16 with 8-bit
/// weights, as in sparsify; on a CPU it is float32, unless the checkpoint is in bfloat16 and the CPU
/// multiplies that fast.
pub(crate) fn compute_kind(
    model_dir: &Path,
    config: &ModelConfig,
    options: &LoadOptions,
) -> Result<Kind, LmError> {
    match options.dtype {
        Dtype::Auto if options.device != Device::Cpu && options.load_in_8bit => Ok(Kind::Half),
        Dtype::Auto => {
            let stored = match config.stored_dtype() {
                Some(dtype) => dtype,
                None => embedding_dtype(model_dir, config)?,
            };
            Ok(fitting(kind_of(stored), options.device, has_fast_bf16()))
        }
        given => Ok(kind_of(given)),
    }
}

fn fitting(stored: Kind, device: Device, fast_bf16: bool) -> Kind {
    match (device, stored) {
        (Device::Cpu, Kind::BFloat16) if fast_bf16 => Kind::BFloat16,
        (Device::Cpu, _) => Kind::Float,
        _ => stored,
    }
}

/// Whether the CPU has instructions for products of bfloat16; without them they take several times as
/// long as those of float32.
pub(crate) fn has_fast_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("bf16");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LanguageModel;
    use crate::testing::TinyModel;
    use facts::read_config;
    use serde_json::json;

    #[test]
    fn a_gpu_takes_the_checkpoint_as_it_is() {
        for stored in [Kind::Float, Kind::BFloat16, Kind::Half] {
            assert_eq!(fitting(stored, Device::Cuda(0), false), stored);
        }
    }

    #[test]
    fn a_cpu_takes_bfloat16_only_where_it_is_fast() {
        assert_eq!(fitting(Kind::BFloat16, Device::Cpu, true), Kind::BFloat16);
        assert_eq!(fitting(Kind::BFloat16, Device::Cpu, false), Kind::Float);
        assert_eq!(fitting(Kind::Half, Device::Cpu, true), Kind::Float);
    }

    #[test]
    fn by_default_the_device_decides() {
        assert_eq!(LoadOptions::default().dtype, Dtype::Auto);
        let model = TinyModel::with_config(json!({"dtype": "bfloat16"}));
        let loaded = LanguageModel::load(model.dir(), &LoadOptions::default()).unwrap();
        assert_eq!(
            loaded.kind(),
            fitting(Kind::BFloat16, Device::Cpu, has_fast_bf16())
        );
    }

    #[test]
    fn the_option_wins_over_the_checkpoint() {
        let model = TinyModel::with_config(json!({"dtype": "float16"}));
        for (dtype, kind) in [
            (Dtype::Auto, Kind::Float),
            (Dtype::Float32, Kind::Float),
            (Dtype::Float16, Kind::Half),
            (Dtype::BFloat16, Kind::BFloat16),
        ] {
            let options = LoadOptions {
                dtype,
                n_layers: Some(0),
                ..LoadOptions::default()
            };
            let loaded = LanguageModel::load(model.dir(), &options).unwrap();
            assert_eq!(loaded.kind(), kind, "{dtype:?}");
        }
    }

    /// As transformers: `dtype` or the older `torch_dtype`, else what the weights are stored in.
    #[test]
    fn the_checkpoints_own_precision() {
        for (changes, kind) in [
            (json!({"dtype": "bfloat16"}), Kind::BFloat16),
            (json!({"dtype": null, "torch_dtype": "float16"}), Kind::Half),
            (json!({"dtype": null, "torch_dtype": null}), Kind::Float),
        ] {
            let model = TinyModel::with_config(changes);
            let config = read_config(model.dir()).unwrap();
            let options = LoadOptions {
                device: Device::Cuda(0),
                dtype: Dtype::Auto,
                ..LoadOptions::default()
            };
            assert_eq!(compute_kind(model.dir(), &config, &options).unwrap(), kind);
        }
    }
}
