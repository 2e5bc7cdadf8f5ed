//! Messages of libraries in words: no types of Rust, no numbers of the operating system.

/// What the operating system says, and the same in words.
const SYSTEM: [(&str, &str); 8] = [
    (
        "No such file or directory (os error 2)",
        "no such file or folder",
    ),
    ("Permission denied (os error 13)", "permission denied"),
    ("File exists (os error 17)", "it exists already"),
    (
        "Not a directory (os error 20)",
        "a part of its path is not a folder",
    ),
    ("Is a directory (os error 21)", "it is a folder"),
    (
        "No space left on device (os error 28)",
        "no space is left on the disk",
    ),
    (
        "Read-only file system (os error 30)",
        "the file system can only be read",
    ),
    (
        "failed to lookup address information: Name or service not known",
        "the name of the host is not known",
    ),
];

/// A message with what serde and the operating system say in words. What is plain already stays as it is.
pub fn plain(message: &str) -> String {
    let mut text = message.to_owned();
    for (system, words) in SYSTEM {
        text = text.replace(system, words);
    }
    let text = without_numbers(&text);
    [of_type, of_variant, of_field]
        .iter()
        .find_map(|rule| rule(&text))
        .unwrap_or(text)
}

/// A text without ` (os error 5)`.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| match part.split_once(')') {
        Some((number, rest)) if number.parse::<i32>().is_ok() => text + rest,
        _ => text + " (os error " + part,
    })
}

/// `invalid type: string "x", expected usize at line 3 column 5`.
fn of_type(text: &str) -> Option<String> {
    let marks = ["invalid type: ", "invalid value: ", "invalid value "];
    let (before, rest) = marks.iter().find_map(|mark| text.split_once(mark))?;
    let (found, expected) = rest.split_once(", expected ")?;
    let (expected, end) = with_end(expected);
    let found = found_in_words(found);
    let wanted = expected_in_words(expected, found.starts_with("`-"));
    Some(format!("{before}{found} is not {wanted}{end}"))
}

/// Where in a file it is, which libraries say at the end.
fn with_end(text: &str) -> (&str, &str) {
    text.split_at(text.find(" at line ").unwrap_or(text.len()))
}

fn found_in_words(found: &str) -> String {
    let found = found.strip_prefix("found ").unwrap_or(found);
    let kinds = [
        "signed int ",
        "unsigned int ",
        "integer ",
        "floating point ",
        "float ",
        "boolean ",
        "bool ",
        "char ",
        "string ",
    ];
    let value = kinds.iter().find_map(|kind| found.strip_prefix(kind));
    match (value, found) {
        (Some(value), _) if value.starts_with(['`', '"']) => value.to_owned(),
        (Some(value), _) => format!("`{value}`"),
        (None, "sequence") => "a list".to_owned(),
        (None, "map") => "a table".to_owned(),
        (None, "unit" | "null" | "Option value" | "option") => "nothing".to_owned(),
        (None, other) => other.to_owned(),
    }
}

fn expected_in_words(expected: &str, is_negative: bool) -> String {
    let words = match expected {
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" if is_negative => "0 or more",
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => "a whole number",
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "bool" | "boolean" | "a boolean" => "true or false",
        "string" | "a string" | "str" | "String" => "a text",
        "sequence" | "a sequence" => "a list",
        "map" | "a map" => "a table",
        "unit" | "null" => "empty",
        other => match other.split(' ').next() {
            Some("struct") => "a table",
            Some("enum") => "one of its names",
            Some("tuple") => "a list of that length",
            _ => other,
        },
    };
    words.to_owned()
}

/// ``unknown variant `x`, expected one of `a`, `b` ``.
fn of_variant(text: &str) -> Option<String> {
    let (before, rest) = text.split_once("unknown variant")?;
    let rest = rest.trim_start_matches([':', ' ']);
    let rest = rest.strip_prefix("found ").unwrap_or(rest);
    let (found, expected) = rest.split_once(", expected ")?;
    let (expected, end) = with_end(expected);
    // figment has the whole list in backticks.
    let expected = expected.strip_prefix('`').unwrap_or(expected);
    let names: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let names = if expected.starts_with("one of") || expected.starts_with('`') {
        names
    } else {
        // Two in backticks: ``a` or `b``, of which the first mark is gone.
        expected.split('`').step_by(2).collect()
    };
    let names: Vec<String> = names
        .into_iter()
        .filter(|name| !name.is_empty())
        .map(|name| format!("`{name}`"))
        .collect();
    let wanted = names.join(", ");
    Some(match names.len() {
        0 => return None,
        1 => format!("{before}{found} is not {wanted}{end}"),
        _ => format!("{before}{found} is not one of {wanted}{end}"),
    })
}

/// ``missing field `x` ``.
fn of_field(text: &str) -> Option<String> {
    let (before, rest) = text.split_once("missing field `")?;
    let (field, end) = rest.split_once('`')?;
    Some(format!("{before}`{field}` is missing{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_in_words() {
        for (message, expected) in [
            (
                "`train.k`: invalid type: found string \"x\", expected f64",
                "`train.k`: \"x\" is not a number",
            ),
            (
                "invalid type: found float `1.5`, expected usize",
                "`1.5` is not a whole number",
            ),
            (
                "invalid value signed int `-1`, expected usize",
                "`-1` is not 0 or more",
            ),
            (
                "invalid type: string \"4\", expected u64 at line 3 column 5",
                "\"4\" is not a whole number at line 3 column 5",
            ),
            (
                "invalid type: found signed int `3`, expected a sequence",
                "`3` is not a list",
            ),
            (
                "invalid type: map, expected a string at line 1 column 0",
                "a table is not a text at line 1 column 0",
            ),
            (
                "invalid type: found bool true, expected struct Launch",
                "`true` is not a table",
            ),
            (
                "invalid type: found sequence, expected enum Activation",
                "a list is not one of its names",
            ),
            (
                "invalid type: integer `3`, expected a number of bytes such as \"46 GB\"",
                "`3` is not a number of bytes such as \"46 GB\"",
            ),
        ] {
            assert_eq!(plain(message), expected);
        }
    }

    #[test]
    fn names_are_listed_without_nested_marks() {
        for message in [
            "unknown variant: found `x`, expected `one of `a`, `b`, `c``",
            "unknown variant `x`, expected one of `a`, `b`, `c`",
        ] {
            assert_eq!(plain(message), "`x` is not one of `a`, `b`, `c`");
        }
        for message in [
            "unknown variant: found `q`, expected ``a` or `b``",
            "unknown variant `q`, expected `a` or `b`",
        ] {
            assert_eq!(plain(message), "`q` is not one of `a`, `b`", "{message}");
        }
        assert_eq!(
            plain("m.json: missing field `hidden_size` at line 2 column 1"),
            "m.json: `hidden_size` is missing at line 2 column 1"
        );
    }

    #[test]
    fn errors_of_the_system_have_no_numbers() {
        assert_eq!(
            plain("cannot read `a`: No such file or directory (os error 2)"),
            "cannot read `a`: no such file or folder"
        );
        assert_eq!(
            plain("Input/output error (os error 5), twice (os error 5)"),
            "Input/output error, twice"
        );
        let mine = "cannot open (os error x) `b`";
        assert_eq!(plain(mine), mine);
    }
}
