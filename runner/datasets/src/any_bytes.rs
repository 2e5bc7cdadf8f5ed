//! Cards and rows with damage of all kinds, and rows of any texts.

use super::card::Card;
use super::samples::{Sample, gzipped, texts, zstandard};
use files::testing::{any_bytes, any_bytes_of_text};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

const CARDS: [&str; 3] = [
    "---\nlicense: mit\nconfigs:\n- config_name: a\n  default: true\n  data_files:\n  - split: train\n    \
     path: [\"a/*.csv\", 'b']\n  data_dir: d\n- {config_name: 7, data_files: x}\n---\n# It\n",
    "---\r\na: &a [1, *b]\r\nb: &b {<<: *a}\r\nconfigs: null\r\n---\r\n",
    "---\na: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nd: [*c, *c, *c, *c]\n---\n",
];

/// Names of files, each with sound content.
fn sound_files() -> Vec<(&'static str, Vec<u8>)> {
    let csv = b"id,text\n1,\"a, \"\"b\"\"\nc\"\n2,d\n\n3,\n";
    let tsv = b"text\tid\na\t1\n\"b\t\"\t2\n";
    let lines = b"{\"text\": \"a\\u0041\", \"n\": [1, {}]}\n{\"n\": null, \"text\": \"b\"}\n";
    let array = b"\xef\xbb\xbf[{\"text\": \"a\"},\n {\"text\": \"b\", \"x\": {\"y\": 1e9}}]";
    let ids = b"{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [4294967295]}\n";
    vec![
        ("a.csv", csv.to_vec()),
        ("a.tsv", tsv.to_vec()),
        ("a.jsonl", lines.to_vec()),
        ("a.json", array.to_vec()),
        ("ids.jsonl", ids.to_vec()),
        ("a.txt", b"a\r\n\nb\xc3\xa9".to_vec()),
        ("a.bin", (0..64).collect()),
        ("a.jsonl.gz", gzipped(lines)),
        ("a.csv.zst", zstandard(csv)),
    ]
}

/// A file of each kind with any content, or damaged.
fn any_file() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    prop::sample::select(sound_files())
        .prop_flat_map(|(name, content)| (Just(name), any_bytes(vec![content])))
}

/// Lines of JSON, and the same rows as one array.
fn as_json(rows: &[String]) -> [Vec<u8>; 2] {
    let objects: Vec<Value> = rows
        .iter()
        .map(|text| json!({"id": 1, "text": text}))
        .collect();
    let lines: String = objects.iter().map(|object| format!("{object}\n")).collect();
    [lines.into(), Value::from(objects).to_string().into()]
}

fn as_csv(rows: &[String], delimiter: u8) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new()
        .delimiter(delimiter)
        .quote_style(csv::QuoteStyle::Always)
        .from_writer(Vec::new());
    writer.write_record(["id", "text"]).unwrap();
    for text in rows {
        writer.write_record(["1", text]).unwrap();
    }
    writer.into_inner().unwrap()
}

proptest! {
    #[test]
    fn any_bytes_are_a_card_or_none(text in any_bytes_of_text(&CARDS)) {
        if let Ok(card) = Card::parse("it", &text) {
            let names = card.names();
            prop_assert!(!names.is_empty());
            for config in names.iter().filter_map(|name| card.config(name)) {
                let _ = config.splits();
            }
            let _ = card.default_config("it");
        }
    }

    #[test]
    fn any_bytes_are_rows_or_an_error((name, content) in any_file()) {
        for sample in [Sample::new(&[(name, &content)]), Sample::new(&[(name, &content)]).skip()] {
            let Ok(documents) = sample.open() else {
                continue;
            };
            let mut n_documents = 0;
            let mut n_errors = 0;
            for document in documents {
                match document {
                    Ok(_) => n_documents += 1,
                    Err(error) => {
                        prop_assert!(error.to_string().contains(name), "{}", error);
                        n_errors += 1;
                    }
                }
            }
            // After an error that is not passed over, there is nothing more.
            prop_assert!(n_errors <= 1 && n_documents <= 4 * content.len() + 4);
        }
    }

    #[test]
    fn any_bytes_of_rows_are_read_as_they_were_written(rows in vec("(?s).{1,30}", 1..6)) {
        let [lines, array] = as_json(&rows);
        for (name, content) in [
            ("a.jsonl", lines),
            ("a.json", array),
            ("a.csv", as_csv(&rows, b',')),
            ("a.tsv", as_csv(&rows, b'\t')),
        ] {
            prop_assert_eq!(&texts(name, &content).unwrap(), &rows, "{}", name);
        }
    }

    #[test]
    fn any_bytes_in_a_line_cost_no_other_line(
        rows in vec(any::<String>(), 3..6),
        damaged in any_bytes(vec![b"{\"text\": \"a\"}".to_vec()]),
    ) {
        let [lines, _] = as_json(&rows);
        let one_line: Vec<u8> = damaged.into_iter().filter(|byte| *byte != b'\n').collect();
        let first = lines.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let content = [&lines[..first], &one_line, b"\n", &lines[first..]].concat();
        let read = Sample::new(&[("a.jsonl", &content)]).skip().texts().unwrap();
        prop_assert_eq!(&read[..1], &rows[..1]);
        // Several objects on a line are several rows.
        let n_objects = one_line.iter().filter(|byte| **byte == b'{').count();
        prop_assert!(read.ends_with(&rows[1..]) && read.len() <= rows.len() + n_objects);
    }
}
