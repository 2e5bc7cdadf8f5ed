//! Settings that override others.

use crate::sweep::text_where_wanted;
use crate::{PlanError, TrainConfig, nearest};
use serde_json::{Map, Value};

/// The settings of `base` after `overrides`.
///
/// # Errors
/// An unknown setting or a value of the wrong type.
pub fn apply_overrides(
    base: &TrainConfig,
    overrides: &Map<String, Value>,
) -> Result<TrainConfig, PlanError> {
    let mut settings = base.to_map();
    for (key, value) in overrides {
        let Some(slot) = settings.get_mut(key) else {
            let keys = TrainConfig::keys();
            let nearest = nearest(key, keys.iter().map(String::as_str), 1).pop();
            let hint = match nearest {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => "`sae-run train --help` lists the settings".into(),
            };
            let message = format!("unknown setting `{key}`");
            return Err(PlanError::about(key, message).with_hint(hint));
        };
        *slot = text_where_wanted(key, value);
    }
    let parsed = serde_json::from_value(settings.into());
    parsed.map_err(|error| wrong_override(base, overrides, &error))
}

/// All settings, with those of a preset.
pub(crate) fn parsed(settings: &Map<String, Value>) -> Result<TrainConfig, PlanError> {
    let parsed = serde_json::from_value(settings.clone().into());
    parsed.map_err(|error| wrong_type("train", &error.to_string()))
}

/// Which of `overrides` is of the wrong type: one at a time, so that the error can name it.
fn wrong_override(
    base: &TrainConfig,
    overrides: &Map<String, Value>,
    error: &serde_json::Error,
) -> PlanError {
    let settings = base.to_map();
    let wrong = overrides.iter().find_map(|(key, value)| {
        let mut one = settings.clone();
        let before = one.insert(key.clone(), value.clone()).unwrap_or_default();
        let error = serde_json::from_value::<TrainConfig>(one.into()).err()?;
        let problem = format!("{error}, got {value} (default {before})");
        Some(wrong_type(key, &problem))
    });
    wrong.unwrap_or_else(|| wrong_type("train", &error.to_string()))
}

/// `problem`: what was found and what was expected.
fn wrong_type(key: &str, problem: &str) -> PlanError {
    PlanError::about(key, format!("setting `{key}`: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_may_look_like_a_number() {
        let settings = json!({"revision": 1.5, "split": true, "hookpoints": [0, "layers.1"]});
        let config =
            apply_overrides(&TrainConfig::default(), settings.as_object().unwrap()).unwrap();
        assert_eq!(config.revision.unwrap(), "1.5");
        assert_eq!(config.split, "true");
        assert_eq!(config.hookpoints, ["0", "layers.1"]);
        for odd in [
            json!({"model": ["m"]}),
            json!({"k": "4"}),
            json!({"dtype": 3}),
        ] {
            assert!(apply_overrides(&TrainConfig::default(), odd.as_object().unwrap()).is_err());
        }
    }
}
