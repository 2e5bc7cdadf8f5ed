//! Documents of JSON objects one after the other, or of one JSON array.

use super::Document;
use super::json_field::{columns_of, document};
use super::json_values::Values;
use super::rows::{Column, ReadRows, RowError};
use crate::DatasetError;
use plan::DataFile;

/// The objects of a JSON file, or the elements of an array if the file begins with `[`. Texts in an array
/// are a column `text`.
pub(super) struct JsonRows {
    values: Values,
    column: Column,
}

impl JsonRows {
    pub(super) fn open(file: &DataFile, column: &Column) -> Result<Self, DatasetError> {
        Ok(Self {
            values: Values::open(file)?,
            column: column.clone(),
        })
    }
}

impl ReadRows for JsonRows {
    fn next_row(&mut self) -> Result<Option<Document>, RowError> {
        let Some(value) = self.values.next_value()? else {
            return Ok(None);
        };
        document(value, &self.column).map(Some)
    }

    fn n_bytes_read(&self) -> u64 {
        self.values.n_bytes_read()
    }
}

/// The columns of the first row in `file`; `None` if it has none.
pub(super) fn first_columns(file: &DataFile) -> Result<Option<Vec<String>>, DatasetError> {
    let mut values = Values::open(file)?;
    loop {
        match values.next_value() {
            Ok(None) => return Ok(None),
            Ok(Some(value)) => {
                let columns = columns_of(value);
                if columns.is_some() {
                    return Ok(columns);
                }
            }
            Err(RowError::Bad(_)) => {}
            Err(RowError::Fatal(error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::MAX_DOCUMENT_BYTES;
    use crate::samples::{Sample, assert_ends, assert_error, texts};
    use fault::Remedy;
    use files::testing::fixture;

    #[test]
    fn lines_become_documents() {
        let content = "\u{feff}\n{\"text\": \"a\\u00e9\", \"id\": 1}\n\n{\"text\": \"\"}\r\n{\"text\": \"c\"}";
        let expected = ["aé", "", "c"];
        assert_eq!(texts("a.jsonl", content.as_bytes()).unwrap(), expected);
        assert!(texts("a.jsonl", b"\n \r\n").unwrap().is_empty());
    }

    #[test]
    fn the_fixture_has_its_documents() {
        let content = std::fs::read(fixture("tiny.jsonl")).unwrap();
        let documents = texts("tiny.jsonl", &content).unwrap();
        assert_eq!(documents.len(), 584);
        assert_eq!(documents.iter().filter(|text| text.is_empty()).count(), 2);
        assert!(documents.iter().any(|text| text.contains("白鯨")));
    }

    #[test]
    fn objects_come_in_any_layout() {
        for content in [
            "{\"text\": \"a\"}{\"text\": \"b\"} {\"text\": \"c\"}",
            "{\n  \"text\": \"a\"\n}\n{\n  \"text\": \"b\"\n}\n{\n  \"text\": \"c\"\n}\n",
            "{\"text\": \"a\"}\r\n{\r\n\r\n\"x\": {\"y\": [\r\n{}\r\n]},\r\n\"text\": \"b\"}{\"text\": \"c\"}\r\n",
            "{\"text\":\n\"a\"} {\"text\": \"b\"}\n\n{\"x\": \"}{[\\\"\", \"text\"\n:\"c\"}",
        ] {
            let expected = ["a", "b", "c"];
            assert_eq!(
                texts("a.jsonl", content.as_bytes()).unwrap(),
                expected,
                "{content}"
            );
        }
        let content =
            b"{\n\"text\": \"a\"\n}\n{\n\"text\": 3\n}\n{\"text\": \"b\"} {\"text\": null}";
        assert_error("a.json", content, "a.json:4: column `text`");
        let skipping = Sample::new(&[("a.json", content)]).skip();
        assert_eq!(skipping.texts().unwrap(), ["a", "b"]);
        let first = skipping.open().unwrap();
        assert!(!first.are_tokenised());
    }

    #[test]
    fn an_object_that_is_not_closed_costs_its_own_line() {
        let content = b"{\"text\": \"a\"}\n{\"text\": \"b\", \"x\": {\n{\"text\": \"c\"}\n{\"text\": \"d\", \"x\": [\n\
            {\n\"text\": \"e\"\n}\n";
        assert_error("a.jsonl", content, "a.jsonl:2: not a JSON object");
        let sample = Sample::new(&[("a.jsonl", content)]).skip();
        assert_eq!(sample.texts().unwrap(), ["a", "c"]);
        let mut documents = sample.open().unwrap();
        assert_eq!(documents.by_ref().count(), 2);
        assert_eq!(documents.n_skipped(), 5);
        // An unclosed text is detected at once, and objects over several lines are read after it.
        let content = b"{\"text\": \"a\n{\n\"text\": \"b\"\n}\n{\"text\": \"c\",\n\"d\": \"e\n}\n{\n\"text\": \"f\"}";
        let sample = Sample::new(&[("a.jsonl", content)]).skip();
        assert_eq!(sample.texts().unwrap(), ["b", "f"]);
    }

    #[test]
    fn numbers_that_python_writes_are_read() {
        for (name, content) in [
            (
                "a.jsonl",
                "{\"text\": \"NaN\", \"x\": NaN}\n{\"x\": [1, -Infinity], \"text\": \"b\"}",
            ),
            (
                "a.json",
                "[{\"text\": \"NaN\", \"x\": {\"y\": Infinity}}, {\"text\": \"b\"}]",
            ),
        ] {
            assert_eq!(texts(name, content.as_bytes()).unwrap(), ["NaN", "b"]);
        }
        let content = b"{\"x\": NaN, \"text\": NaN}";
        assert_error("a.jsonl", content, "has a number, not a text");
        let ids = Sample::new(&[("a.jsonl", b"{\"input_ids\": [3], \"loss\": NaN}")]);
        assert_eq!(ids.token_ids().unwrap(), [[3]]);
        let content = b"{\"input_ids\": [3, Infinity]}";
        assert_error("a.jsonl", content, "has a list with 0.0");
    }

    #[test]
    fn texts_of_an_array_are_a_column() {
        let content = br#"["a, ] \" \\", "c" ,"d\u00e9"]"#;
        assert_eq!(
            texts("a.json", content).unwrap(),
            [r#"a, ] " \"#, "c", "dé"]
        );
        let other = Sample::new(&[("a.json", content)]).text_column("body");
        assert_ends(&other.error(), "a.json:1: no column `body`");
        let hint = other.error().hint().unwrap();
        assert_eq!(hint, "set `text_column` to one of `text`");
        let mixed = b"[\"a\", 3, {\"text\": \"b\"}]";
        assert_error("a.json", mixed, "a.json:1: not a JSON object");
        assert_eq!(
            Sample::new(&[("a.json", mixed)]).skip().texts().unwrap(),
            ["a", "b"]
        );
    }

    #[test]
    fn errors_do_not_repeat_the_document() {
        let content = format!("\"{}\"", "very long ".repeat(1000));
        let error = Sample::new(&[("a.jsonl", content.as_bytes())]).error();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "it is a string");
    }

    #[test]
    fn hints_name_columns_that_hold_text() {
        let hint = |line: &str| {
            let error = Sample::new(&[("a.jsonl", line.as_bytes())]).error();
            error.hint().unwrap()
        };
        let rest = ", or set `text_column` to one of `body`";
        assert!(hint(r#"{"text": ["a"], "body": "b", "n": 3}"#).ends_with(rest));
        assert!(hint(r#"{"text": ["a"], "n": 3}"#).ends_with("`on_bad_row = \"skip\"`"));
        let none = "text is read from a column of strings, and this file has no such column";
        for line in [
            r#"{"messages": [{"content": "a"}]}"#,
            "{}",
            r#"{"a": {"b": null}}"#,
        ] {
            assert_eq!(hint(line), none, "{line}");
        }
    }

    #[test]
    fn elements_of_an_array_become_documents() {
        let content = br#"
            [ {"text": "a, ] \" \\", "more": [{"b": [1, 2]}, "]"]},
              {"text": "c"} ,{"text":"d"}
            ]
        "#;
        assert_eq!(texts("a.json", content).unwrap(), [r#"a, ] " \"#, "c", "d"]);
        assert!(texts("a.json", b"[ ]\n").unwrap().is_empty());
    }

    #[test]
    fn broken_arrays_are_named() {
        let bad_element = b"[{\"text\": \"a\"},\n\n {\"text\": 3},\n {\"text\": \"b\"},]";
        assert_error("a.json", bad_element, "a.json:3: column `text`");
        let skipping = Sample::new(&[("a.json", bad_element)]).skip();
        assert_eq!(skipping.texts().unwrap(), ["a", "b"]);
        for content in [
            "[{\"text\": \"a\"}\n,",
            "[{\"text\": \"a\"}\n]x",
            "[\n{\"text\"",
        ] {
            let sample = Sample::new(&[("a.json", content.as_bytes())]).skip();
            assert_ends(&sample.error(), "a.json:2: not a JSON object");
        }
    }

    #[test]
    fn a_missing_column_names_file_line_and_columns() {
        let sample = Sample::new(&[(
            "a.jsonl",
            b"{\"text\": \"a\"}\n{\"body\": \"b\", \"id\": 1, \"all\": [\"b\"], \"meta\": {\"id\": 1, \"by\": \"c\"}}\n",
        )]);
        let error = sample.error();
        assert_ends(&error, "a.jsonl:2: no column `text`");
        assert_eq!(
            error.hint().unwrap(),
            "set `text_column` to one of `body`, `meta.by`"
        );
    }

    #[test]
    fn values_that_are_no_text_are_named() {
        for (value, got) in [
            ("3", "a number"),
            ("null", "null"),
            ("true", "a boolean"),
            ("[\"a\"]", "a list"),
            ("{}", "an object"),
        ] {
            let content = format!("{{\"text\": {value}}}\n");
            let message = format!("a.jsonl:1: column `text` has {got}, not a text");
            assert_error("a.jsonl", content.as_bytes(), &message);
        }
    }

    #[test]
    fn broken_lines_are_named() {
        for content in [
            "{\"text\": \"a\"}\n\n{\"text\": \"b\n",
            "{\"text\": \"a\"}\n\n{\"text\": \"b\",\n \"c\": \"d\n\"}\n",
            "{\"text\": \"a\"}\n\n\"text\"\n",
            "{\"text\": \"a\"}\n\n[\n1]\n",
            "{\"text\": \"a\"}\n\n[1]\n",
            "{\"text\": \"a\"}\n\n{\"text\": \"\\ud800\"}\n",
        ] {
            assert_error(
                "a.jsonl",
                content.as_bytes(),
                "a.jsonl:3: not a JSON object",
            );
        }
        let content = b"{\"text\": \"a\"\n}}\n";
        assert_error("a.jsonl", content, "a.jsonl:2: not a JSON object");
        let content = b"{\"text\": \"a\"}\n{\"text\": \"b\", \"c\": \"\xff\"}\n";
        assert_error("a.jsonl", content, "a.jsonl:2: not UTF-8");
        let deep = "{\"text\": ".to_string() + &"[".repeat(100_000);
        assert_error("a.jsonl", deep.as_bytes(), "a.jsonl:1: not a JSON object");
    }

    #[test]
    fn a_long_line_is_a_bad_row() {
        let mut content = b"{\"text\": \"a\"}\n".to_vec();
        content.resize(MAX_DOCUMENT_BYTES + 100, b'x');
        content.extend_from_slice(b"\n{\"text\": \"b\"}\n");
        let sample = Sample::new(&[("a.jsonl", &content)]);
        assert_ends(&sample.error(), "a.jsonl:2: longer than");
        assert_eq!(sample.skip().texts().unwrap(), ["a", "b"]);
        content.insert(0, b'[');
        content[14] = b',';
        let array = Sample::new(&[("a.json", &content)]).skip();
        assert_ends(&array.error(), "not a JSON object");
    }
}
