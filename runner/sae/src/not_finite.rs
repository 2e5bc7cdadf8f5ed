//! Weights and results that are not finite.

use crate::{Sae, SaeError};
use fault::Fault;
use std::path::Path;

impl Sae {
    /// The error for `what` an SAE computes of finite numbers and that is not finite.
    pub fn not_finite(&self, dir: &Path, what: &str) -> SaeError {
        let of_result = || {
            let message = format!(
                "{what} of the SAE in `{}` are NaN or infinite",
                dir.display()
            );
            let hint = "its weights are finite, but far too large for these activations";
            Fault::input(message).with_hint(hint).into()
        };
        self.check_finite(dir).err().unwrap_or_else(of_result)
    }

    /// Checks that all weights of this SAE, which is that in `dir`, are finite.
    ///
    /// # Errors
    /// The first that is not, by its name.
    pub fn check_finite(&self, dir: &Path) -> Result<(), SaeError> {
        for (name, weight) in self.named_weights() {
            let is_finite = bool::try_from(weight.f_isfinite()?.f_all()?)?;
            if !is_finite {
                let dir = dir.display();
                let message =
                    format!("`{name}` of the SAE in `{dir}` has values that are not finite");
                let hint = "training diverged: leave it out, or train it again with a lower `lr`";
                return Err(Fault::input(message).with_hint(hint).into());
            }
        }
        Ok(())
    }
}
