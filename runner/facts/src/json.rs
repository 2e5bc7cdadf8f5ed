//! JSON as Python writes it: with `NaN`, `Infinity` and `-Infinity`, and perhaps after a byte order mark.

use crate::FactsError;
use fault::Fault;
use files::bound;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

/// The key under which such a number is kept, as in transformers' own files.
const FLOAT_TAG: &str = "__float__";

/// For a file that is not what its name says.
pub(crate) const WRONG_FILE: &str = "is it the file of a Hugging Face model, and complete?";

/// How many characters of a value an error shows.
const SHOWN_CHARS: usize = 80;

/// Reads a JSON file. A number that JSON does not have becomes an object, which no key takes: such as
/// `{"__float__": "NaN"}`.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, FactsError> {
    let text = files::read(path, bound::SETTINGS).map_err(|source| FactsError::ReadFile {
        path: path.into(),
        source,
    })?;
    Ok(parse(&text).map_err(|source| {
        Fault::input(format!(
            "`{}` is not a JSON object of the expected form",
            path.display()
        ))
        .with_hint(WRONG_FILE)
        .because(source)
    })?)
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    let text = files::without_mark(text);
    let tagged = |number: &str| format!("{{\"{FLOAT_TAG}\":\"{number}\"}}");
    serde_json::from_slice(text)
        .or_else(|_| serde_json::from_slice(&files::with_stand_ins(text, tagged)))
}

/// A value as an error shows it: cut if it is long.
pub(crate) fn shown(value: &Value) -> String {
    let odd_number = value.get(FLOAT_TAG).and_then(Value::as_str);
    let text = odd_number.map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_python_writes() {
        let text = r#"{"a": NaN, "b": [-Infinity, Infinity], "c": "NaN \" Infinity", "d": "\\"}"#;
        let value: Value = parse(text.as_bytes()).unwrap();
        let tag = |number: &str| json!({ FLOAT_TAG: number });
        let expected = json!({"a": tag("NaN"), "b": [tag("-Infinity"), tag("Infinity")],
            "c": "NaN \" Infinity", "d": "\\"});
        assert_eq!(value, expected);
        assert_eq!(shown(&value["b"][0]), "-Infinity");
        let marked = "\u{feff}{}".as_bytes().to_vec();
        assert_eq!(parse::<Value>(&marked).unwrap(), json!({}));
    }

    #[test]
    fn what_is_no_json_is_told_by_its_line() {
        let error = parse::<Value>(b"{\"a\": NaN,\n \"b\": }").unwrap_err();
        assert_eq!(error.line(), 2);
        assert!(parse::<Value>(b"{\"a\": nan}").is_err());
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = json!("é".repeat(200));
        assert_eq!(shown(&long).chars().count(), SHOWN_CHARS + 3);
        assert_eq!(shown(&json!(32)), "32");
    }
}
