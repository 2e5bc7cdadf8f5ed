//! One column of a JSON object, read without building the others.

use super::Document;
use super::json_values::JsonValue;
use super::rows::{Column, RowError, TEXT_COLUMN};
use files::with_stand_ins;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;
use std::marker::PhantomData;

/// The document in an object, or the text in an array.
pub(super) fn document(value: JsonValue<'_>, column: &Column) -> Result<Document, RowError> {
    let document = if column.holds_ids {
        field(value.text.as_bytes(), column).map(Document::TokenIds)
    } else {
        field(value.text.as_bytes(), column).map(Document::Text)
    };
    document.map_or_else(|| slow_document(value, column), Ok)
}

/// The columns of a row; `None`: it is not an object.
pub(super) fn columns_of(value: JsonValue<'_>) -> Option<Vec<String>> {
    let object = object_of(value).ok()?;
    Some(object.into_iter().map(|(name, _)| name).collect())
}

/// The object; for a text in an array, an object of the one column `text`. Numbers that are not finite are
/// read as 0: no column that is used holds numbers other than token ids, which are whole.
fn object_of(value: JsonValue<'_>) -> serde_json::Result<Map<String, Value>> {
    let text = with_stand_ins(value.text.as_bytes(), |_| "0.0".into());
    match serde_json::from_slice::<Value>(&text)? {
        Value::Object(object) => Ok(object),
        text @ Value::String(_) if value.is_element => {
            Ok([(TEXT_COLUMN.to_owned(), text)].into_iter().collect())
        }
        other => {
            let got = type_name(&other);
            Err(serde_json::Error::custom(format!("it is {got}")))
        }
    }
}

/// The column if the object is sound and its type fits; why it is not, [`slow_document`] finds out.
fn field<T: for<'de> Deserialize<'de>>(text: &[u8], column: &Column) -> Option<T> {
    let seed = Field {
        name: Some(&column.name),
        below: if column.path.len() > 1 {
            &column.path
        } else {
            &[]
        },
        value: PhantomData,
    };
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = seed.deserialize(&mut json).ok()?;
    json.end().ok()?;
    value
}

/// Reads a field of an object: the one called `name`, else the one at the path `below`. Of several
/// fields of one name the last counts.
struct Field<'a, T> {
    name: Option<&'a str>,
    below: &'a [String],
    value: PhantomData<T>,
}

impl<'a, T> Field<'a, T> {
    fn at(path: &'a [String]) -> Self {
        let (name, below) = match path {
            [name] => (Some(name.as_str()), [].as_slice()),
            _ => (None, path),
        };
        Self {
            name,
            below,
            value: PhantomData,
        }
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Field<'_, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Field<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let (mut named, mut nested) = (None, None);
        let key = Key {
            name: self.name,
            head: self.below.first().map(String::as_str),
        };
        while let Some(which) = object.next_key_seed(key)? {
            match which {
                Which::Named => named = Some(object.next_value()?),
                Which::Head => nested = object.next_value_seed(Field::at(&self.below[1..]))?,
                Which::Other => {
                    object.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(named.or(nested))
    }
}

/// Tells the wanted keys of an object from the others.
#[derive(Clone, Copy)]
struct Key<'a> {
    name: Option<&'a str>,
    head: Option<&'a str>,
}

enum Which {
    Named,
    Head,
    Other,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Which;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Which, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Which;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Which, E> {
        Ok(if self.name == Some(key) {
            Which::Named
        } else if self.head == Some(key) {
            Which::Head
        } else {
            Which::Other
        })
    }
}

/// [`document`], with the reason why a row has no document.
fn slow_document(value: JsonValue<'_>, column: &Column) -> Result<Document, RowError> {
    let location = value.location;
    let object = object_of(value).map_err(|source| RowError::Bad(location.not_json(source)))?;
    let Some(value) = find(&object, column) else {
        return Err(location.missing(column, texts_in(&object)));
    };
    if column.holds_ids {
        return token_ids(value)
            .map(Document::TokenIds)
            .map_err(|got| location.not_ids(column, &got));
    }
    match value {
        Value::String(text) => Ok(Document::Text(text.clone())),
        other => Err(location.not_text(column, type_name(other), texts_in(&object))),
    }
}

fn find<'a>(object: &'a Map<String, Value>, column: &Column) -> Option<&'a Value> {
    let (last, heads) = column.path.split_last()?;
    let at_path = || {
        let inner = heads
            .iter()
            .try_fold(object, |object, head| object.get(head)?.as_object())?;
        inner.get(last)
    };
    object.get(&column.name).or_else(at_path)
}

/// The fields of `object` that hold text, by their dotted names.
fn texts_in(object: &Map<String, Value>) -> Vec<String> {
    let mut names = Vec::new();
    for (name, value) in object {
        match value {
            Value::Object(inner) => {
                names.extend(
                    texts_in(inner)
                        .iter()
                        .map(|inner| format!("{name}.{inner}")),
                );
            }
            Value::String(_) => names.push(name.clone()),
            _ => {}
        }
    }
    names
}

/// The ids of `value`, or what it is instead.
fn token_ids(value: &Value) -> Result<Vec<u32>, String> {
    let Value::Array(elements) = value else {
        return Err(type_name(value).into());
    };
    let id = |element: &Value| {
        let id = element.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| match element {
            Value::Number(number) => format!("a list with {number}"),
            other => format!("a list with {}", type_name(other)),
        })
    };
    elements.iter().map(id).collect()
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use crate::samples::{Sample, assert_ends};

    fn at(column: &str, line: &str) -> Vec<String> {
        let sample = Sample::new(&[("a.jsonl", line.as_bytes())]);
        sample.text_column(column).texts().unwrap()
    }

    #[test]
    fn a_dotted_name_is_a_path_unless_it_is_a_column() {
        let line = r#"{"a.b": "flat", "a": {"b": "nested", "c": {"d": "deep"}}}"#;
        assert_eq!(at("a.b", line), ["flat"]);
        assert_eq!(at("a.c.d", line), ["deep"]);
        assert_eq!(at("a.b", r#"{"a": {"b": "nested"}}"#), ["nested"]);
        assert_eq!(at("a.b", r#"{"a": 3, "a.b": "flat"}"#), ["flat"]);
    }

    #[test]
    fn a_path_that_leads_nowhere_is_missing() {
        for line in [
            r#"{"a": {"b": {"x": 1}}}"#,
            r#"{"a": {"b": "c"}}"#,
            r#"{"a": []}"#,
        ] {
            let sample = Sample::new(&[("a.jsonl", line.as_bytes())]).text_column("a.b.c");
            assert_ends(&sample.error(), "no column `a.b.c`");
        }
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        assert_eq!(at("text", r#"{"text": "a", "text": "b"}"#), ["b"]);
        assert_eq!(at("text", r#"{"text": 3, "text": "b"}"#), ["b"]);
        assert_eq!(at("a.b", r#"{"a": {"b": "c"}, "a": {"b": "d"}}"#), ["d"]);
        let sample = Sample::new(&[("a.jsonl", br#"{"text": "a", "text": null}"#)]);
        assert_ends(&sample.error(), "has null");
        let sample = Sample::new(&[("a.jsonl", br#"{"a": {"b": "c"}, "a": {}}"#)]);
        assert_ends(&sample.text_column("a.b").error(), ": no column `a.b`");
    }

    #[test]
    fn escaped_keys_are_the_same_keys() {
        assert_eq!(at("text", r#"{"te\u0078t": "a"}"#), ["a"]);
    }

    #[test]
    fn ids_win_over_text() {
        let content = b"{\"text\": \"a\", \"input_ids\": [0, 4294967295]}\n{\"input_ids\": []}\n";
        let sample = Sample::new(&[("a.jsonl", content)]);
        assert!(sample.open().unwrap().are_tokenised());
        assert_eq!(
            sample.token_ids().unwrap(),
            [vec![0, 4_294_967_295], vec![]]
        );
    }

    #[test]
    fn what_is_no_list_of_ids_is_named() {
        for (value, got) in [
            ("[1, -1]", "a list with -1"),
            ("[4294967296]", "a list with 4294967296"),
            ("[1.0]", "a list with 1.0"),
            ("[null]", "a list with null"),
            ("[[1]]", "a list with a list"),
            ("\"1\"", "a string"),
            ("null", "null"),
        ] {
            let line = format!("{{\"input_ids\": {value}}}");
            let error = Sample::new(&[("a.jsonl", line.as_bytes())]).error();
            let message = format!("a.jsonl:1: column `input_ids` has {got}, not a list of token");
            assert_ends(&error, &message);
        }
    }
}
