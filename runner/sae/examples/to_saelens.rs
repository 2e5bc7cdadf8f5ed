//! Writes an SAE in SAELens's layout.
//!
//! ```text
//! cargo run -p sae --example to_saelens -- SAE_FOLDER OUTPUT_FOLDER
//! ```

use sae::{Sae, SaeLensMetadata, find_saes, trained_on};
use std::error::Error;
use std::path::Path;
use tch::Device;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, output] = &args[..] else {
        return Err("usage: to_saelens SAE_FOLDER OUTPUT_FOLDER".into());
    };
    let found = find_saes(Path::new(folder))?;
    let [found] = &found[..] else {
        return Err(format!(
            "`{folder}` has {} SAEs; name the folder of one",
            found.len()
        )
        .into());
    };
    let metadata = SaeLensMetadata {
        model_name: trained_on(found).map(|trained_on| trained_on.model),
        hf_hook_name: Some(found.hookpoint.clone()),
        ..SaeLensMetadata::default()
    };
    let sae = Sae::load_from_disk(&found.dir, Device::Cpu)?;
    Ok(sae.save_saelens(Path::new(output), &metadata)?)
}
