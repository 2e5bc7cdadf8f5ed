//! The number of latents a token may use.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// Latents a token may use: a whole number, or a mean over tokens, which may have a fraction.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Deserialize)]
#[serde(transparent)]
pub struct K(f64);

/// Whole numbers up to here are exact.
const MOST_EXACT: f64 = (1u64 << f64::MANTISSA_DIGITS) as f64;

impl K {
    /// The number itself.
    pub fn mean(self) -> f64 {
        self.0
    }

    /// The same as a number of one token's latents, rounded up.
    pub fn count(self) -> usize {
        self.0.ceil() as usize
    }

    /// It as an integer, if it is a whole number.
    pub fn whole(self) -> Option<u64> {
        let is_whole = self.0.fract() == 0.0 && (0.0..=MOST_EXACT).contains(&self.0);
        is_whole.then_some(self.0 as u64)
    }
}

impl From<usize> for K {
    fn from(count: usize) -> Self {
        Self(count as f64)
    }
}

impl From<f64> for K {
    fn from(mean: f64) -> Self {
        Self(mean)
    }
}

impl fmt::Display for K {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for K {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.whole() {
            Some(whole) => serializer.serialize_u64(whole),
            None => serializer.serialize_f64(self.0),
        }
    }
}

impl JsonSchema for K {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "K".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "exclusiveMinimum": 0})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_written_as_such() {
        for (text, written) in [
            ("32", "32"),
            ("32.0", "32"),
            ("32.5", "32.5"),
            ("0.5", "0.5"),
        ] {
            let k: K = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&k).unwrap(), written);
            assert_eq!(k.to_string(), written);
        }
        assert_eq!(K::from(32), K::from(32.0));
        assert_eq!([0.5, 32.0, 32.5].map(|k| K::from(k).count()), [1, 32, 33]);
        assert_eq!(K::from(-1.0).whole(), None);
        assert!(serde_json::from_str::<K>("\"many\"").is_err());
    }
}
