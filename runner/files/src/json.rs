//! JSON as Python and Windows write it.

use serde::de::DeserializeOwned;
use std::borrow::Cow;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads JSON of others. A byte order mark is skipped. `NaN`, `Infinity` and `-Infinity`, which Python's
/// `json` writes, are read as texts of these names: a key that is never read may hold one, and one that
/// needs a number does not get another number.
///
/// # Errors
/// Text that is not JSON, or not of the type.
pub fn from_json<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    let text = without_mark(text);
    serde_json::from_slice(text).or_else(|error| {
        match with_stand_ins(text, |number| format!("\"{number}\"")) {
            Cow::Owned(text) => serde_json::from_slice(&text),
            Cow::Borrowed(_) => Err(error),
        }
    })
}

/// The text after its byte order mark, if it has one.
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// JSON with what `stand_in` gives instead of `NaN`, `Infinity` and `-Infinity`; borrowed if it has
/// none of them.
pub fn with_stand_ins(text: &[u8], stand_in: impl Fn(&str) -> String) -> Cow<'_, [u8]> {
    let mut changed = Vec::new();
    let mut n_copied = 0;
    for (start, number) in odd_numbers(text) {
        changed.extend_from_slice(&text[n_copied..start]);
        changed.extend_from_slice(stand_in(number).as_bytes());
        n_copied = start + number.len();
    }
    if n_copied == 0 {
        return Cow::Borrowed(text);
    }
    changed.extend_from_slice(&text[n_copied..]);
    Cow::Owned(changed)
}

/// The numbers that are not finite, outside of strings, and where they begin.
fn odd_numbers(text: &[u8]) -> impl Iterator<Item = (usize, &'static str)> {
    let mut is_in_string = false;
    let mut is_escaped = false;
    let bytes = text.iter().enumerate();
    bytes.filter_map(move |(at, byte)| {
        if is_in_string {
            is_in_string = *byte != b'"' || is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            return None;
        }
        is_in_string = *byte == b'"';
        let is_negative = text[..at].ends_with(b"-");
        match byte {
            b'N' if text[at..].starts_with(b"NaN") => Some((at, "NaN")),
            b'I' if text[at..].starts_with(b"Infinity") => Some(if is_negative {
                (at - 1, "-Infinity")
            } else {
                (at, "Infinity")
            }),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn numbers_that_are_not_finite_are_their_names() {
        let text =
            br#"{"a": NaN, "b": [Infinity,-Infinity, 1], "c": "NaN \" Infinity", "d\\": NaN}"#;
        let expected = json!({
            "a": "NaN", "b": ["Infinity", "-Infinity", 1], "c": "NaN \" Infinity", "d\\": "NaN",
        });
        assert_eq!(from_json::<Value>(text).unwrap(), expected);
        assert!(from_json::<f64>(b"NaN").is_err());
    }

    #[test]
    fn a_mark_is_skipped_once() {
        assert_eq!(from_json::<Value>(b"\xef\xbb\xbf{}").unwrap(), json!({}));
        assert!(from_json::<Value>(b"\xef\xbb\xbf\xef\xbb\xbf{}").is_err());
    }

    #[test]
    fn other_text_is_no_json() {
        for text in ["", "{", "nan", "{\"a\": Nan}", "[Infinite]", "[-NaN]"] {
            assert!(from_json::<Value>(text.as_bytes()).is_err(), "{text}");
        }
        let plain = br#"{"a": "NaN"}"#;
        assert!(matches!(
            with_stand_ins(plain, str::to_owned),
            Cow::Borrowed(_)
        ));
    }
}
