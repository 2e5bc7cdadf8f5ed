//! Why a tensor that a model needs is not in its files, or not in a dtype that is read.

use crate::FactsError;
use crate::json::read_json;
use fault::Fault;
use safetensors::Dtype;
use serde::Deserialize;
use std::path::Path;

const ADAPTER_FILE: &str = "adapter_config.json";

/// What PEFT puts before the names of its tensors.
const PEFT_PREFIX: &str = "base_model.";

#[derive(Deserialize)]
struct Adapter {
    base_model_name_or_path: Option<String>,
}

/// Refuses a folder with an adapter for another model, which transformers would apply.
///
/// # Errors
/// Such a folder.
pub(crate) fn refuse_adapter(model_dir: &Path) -> Result<(), Fault> {
    let path = model_dir.join(ADAPTER_FILE);
    if !path.exists() {
        return Ok(());
    }
    let adapter = read_json::<Adapter>(&path).ok();
    let base = adapter.and_then(|adapter| adapter.base_model_name_or_path);
    Err(Fault::input(format!(
        "`{}` is a PEFT adapter (`{ADAPTER_FILE}`), which is not read",
        model_dir.display()
    ))
    .with_hint(adapter_hint(model_dir, base.as_deref())))
}

/// The error of a tensor that is not among `names`, those in `path`.
pub(crate) fn missing(path: &Path, tensor: &str, names: &[String]) -> FactsError {
    if let Some(scheme) = quantised_by(tensor, |name| names.iter().any(|known| known == name)) {
        return quantised(path, tensor, scheme).into();
    }
    match prefix_of(tensor, names) {
        Some(prefix) => Fault::input(format!(
            "tensor `{tensor}` of `{}` has the prefix `{prefix}` there",
            path.display()
        ))
        .with_hint(prefix_hint(&prefix))
        .into(),
        None => FactsError::MissingTensor {
            path: path.into(),
            tensor: tensor.into(),
        },
    }
}

/// What to do about a checkpoint that is quantised.
pub(crate) const ORIGINAL: &str =
    "take the original checkpoint; `load_in_8bit` quantises it when it is loaded";

/// A tensor of a checkpoint that is quantised by `scheme`.
pub(crate) fn quantised(path: &Path, tensor: &str, scheme: &str) -> Fault {
    let path = path.display();
    Fault::input(format!(
        "tensor `{tensor}` of `{path}` is quantised by {scheme}, which is not read"
    ))
    .with_hint(ORIGINAL)
}

/// What precedes the tensor's name, or its name within the base model, in one of `names`.
fn prefix_of(tensor: &str, names: &[String]) -> Option<String> {
    let before = |wanted: &str| {
        let mut prefixes = names.iter().filter_map(|name| name.strip_suffix(wanted));
        prefixes
            .find(|prefix| prefix.ends_with('.'))
            .map(str::to_owned)
    };
    let (base, within_base) = tensor.split_once('.')?;
    let has_base = names.iter().any(|name| name.starts_with(base));
    before(tensor).or_else(|| {
        if has_base || !within_base.contains('.') {
            None
        } else {
            before(within_base)
        }
    })
}

/// Who quantised the weight called `tensor`, judged by the tensors next to it.
pub(crate) fn quantised_by(tensor: &str, has: impl Fn(&str) -> bool) -> Option<&'static str> {
    let module = tensor.strip_suffix(".weight")?;
    let beside = |names: &[&str]| names.iter().all(|name| has(&format!("{module}.{name}")));
    let schemes: [(&[&str], &str); 8] = [
        (&["qweight", "g_idx"], "GPTQ"),
        (&["qweight"], "AWQ"),
        (&["scales", "biases"], "MLX"),
        (&["weight_packed"], "compressed-tensors"),
        (&["SCB"], "bitsandbytes in 8 bit"),
        (&["weight.absmax"], "bitsandbytes in 4 bit"),
        (&["weight_scale_inv"], "FP8"),
        (&["weight_scale"], "FP8"),
    ];
    let scheme = schemes.into_iter().find(|(names, _)| beside(names));
    scheme.map(|(_, scheme)| scheme)
}

/// The next step for a tensor that has another name.
fn prefix_hint(prefix: &str) -> String {
    if prefix.starts_with(PEFT_PREFIX) {
        "it is a model of PEFT: merge it and save it again, in Python \
                 `model.merge_and_unload().save_pretrained(FOLDER)`"
            .into()
    } else {
        format!(
            "save the model that is inside, in Python `model.{prefix}save_pretrained(FOLDER)`, or \
             rename the tensors"
        )
    }
}

/// The next step for a dtype that is not read.
pub(crate) fn dtype_hint(path: &Path, dtype: &str) -> String {
    if dtype == Dtype::F64.to_string() {
        format!(
            "convert the weights, in Python `AutoModelForCausalLM.from_pretrained(\"{}\", \
             dtype=torch.float32).save_pretrained(FOLDER)`",
            path.parent().unwrap_or(path).display()
        )
    } else {
        "is it a quantised checkpoint? take the original".into()
    }
}

/// The next step for the folder of an adapter.
fn adapter_hint(model_dir: &Path, base: Option<&str>) -> String {
    let base = base.map_or(String::new(), |base| format!(" `{base}`"));
    let merge = format!(
        "merge it with its base model{base}, in Python \
         `AutoPeftModelForCausalLM.from_pretrained(\"{}\").merge_and_unload().save_pretrained(FOLDER)`, \
         and copy the tokenizer there",
        model_dir.display()
    );
    if model_dir.join("config.json").exists() {
        format!("{merge}; or remove `{ADAPTER_FILE}` if the weights here are merged already")
    } else {
        merge
    }
}
