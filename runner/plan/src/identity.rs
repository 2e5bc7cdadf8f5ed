//! What makes two jobs the same: a hash of everything that determines the result.

use serde::Serialize;
use serde_json::Value;

/// Version of the trainer's semantics. Raised when the same settings and data would give other
/// weights, so that old jobs are not taken for new ones.
pub const TRAINER_VERSION: u32 = 1;

/// BLAKE3 of the canonical JSON of `value` (object keys sorted), in hex.
pub fn digest_json(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).expect("plain data serialises to JSON");
    let mut hasher = blake3::Hasher::new();
    hash_canonical(&value, &mut hasher);
    hasher.finalize().to_hex().to_string()
}

/// The first 12 digits of a digest: short enough to type, long enough to be unique in a database.
pub fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

fn hash_canonical(value: &Value, hasher: &mut blake3::Hasher) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            hasher.update(b"{");
            for (key, value) in entries {
                hasher
                    .update(Value::from(key.as_str()).to_string().as_bytes())
                    .update(b":");
                hash_canonical(value, hasher);
                hasher.update(b",");
            }
            hasher.update(b"}");
        }
        Value::Array(items) => {
            hasher.update(b"[");
            for item in items {
                hash_canonical(item, hasher);
                hasher.update(b",");
            }
            hasher.update(b"]");
        }
        scalar => {
            hasher.update(scalar.to_string().as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_order_of_keys_does_not_matter_but_values_do() {
        let a = digest_json(&json!({"k": 32, "model": "m"}));
        assert_eq!(a, digest_json(&json!({"model": "m", "k": 32})));
        assert_ne!(a, digest_json(&json!({"model": "m", "k": 33})));
        assert_ne!(digest_json(&json!([[1], 2])), digest_json(&json!([[1, 2]])));
    }
}
