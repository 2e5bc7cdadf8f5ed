//! Numbers of bytes as people write them.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

/// Units and how many bytes they have.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// A number of bytes, or a text such as "46 GB".
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum ByteCount {
    /// Bytes.
    Number(u64),
    /// With a unit.
    Text(String),
}

/// Reads a setting that is a number of bytes, or nothing.
pub(crate) fn optional<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    match Option::<ByteCount>::deserialize(value)? {
        None => Ok(None),
        Some(ByteCount::Number(n_bytes)) => Ok(Some(n_bytes)),
        Some(ByteCount::Text(text)) => match parse(&text) {
            Some(n_bytes) => Ok(Some(n_bytes)),
            None => Err(de::Error::custom(format!(
                "`{text}` is not a number of bytes such as 46_000_000_000 or \"46 GB\""
            ))),
        },
    }
}

/// `46 GB`, `1.5TB`, `512 MiB`, `1_000`.
fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let is_digit = |c: char| c.is_ascii_digit() || ".,_".contains(c);
    let end = text.find(|c| !is_digit(c)).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.replace('_', "").parse().ok()?;
    let unit = unit.trim().to_ascii_lowercase();
    let (_, n_bytes) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    let n_bytes = number * n_bytes as f64;
    (n_bytes >= 1.0 && n_bytes < u64::MAX as f64).then_some(n_bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_disks_and_of_memory() {
        for (text, n_bytes) in [
            ("46 GB", Some(46_000_000_000)),
            ("46gb", Some(46_000_000_000)),
            ("1.5 TB", Some(1_500_000_000_000)),
            ("2 GiB", Some(2 << 30)),
            ("1_000", Some(1000)),
            ("0", None),
            ("46 G", None),
            ("GB", None),
            ("-1 GB", None),
            ("1e99 GB", None),
        ] {
            assert_eq!(parse(text), n_bytes, "{text}");
        }
    }
}
