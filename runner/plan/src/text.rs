//! Text that others wrote, as it may be shown.

use std::borrow::Cow;

/// What a token of the Hub begins with.
const TOKEN_STARTS: [&str; 2] = ["hf_", "api_org_"];
/// Letters and digits after that: tokens have 34, and what has far fewer is a name.
const MIN_TOKEN_CHARS: usize = 16;
/// A line of a message has no more than these: half a screen.
const MOST_CHARS: usize = 1000;
/// What is left of a longer one.
const CHARS_AT_START: usize = 600;
const CHARS_AT_END: usize = 200;
/// Replaces a secret.
const REDACTED: &str = "***";
/// Last words in the names of secrets.
const SECRET_WORDS: [&str; 8] = [
    "apikey",
    "credential",
    "credentials",
    "key",
    "passwd",
    "password",
    "secret",
    "token",
];

/// A text in one line that leaves the terminal alone: control characters, and those that turn the direction
/// of writing, are spelt out as JSON spells them.
pub fn escaped(text: &str) -> String {
    escaped_but(text, &[])
}

/// The same for a text that already has lines and columns: line ends and tabs stay.
pub fn escaped_lines(text: &str) -> String {
    escaped_but(text, &['\n', '\t'])
}

/// A word as a shell reads it.
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./=,:@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn escaped_but(text: &str, kept: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if kept.contains(&c) || !steers(c) => escaped.push(c),
            '\n' => escaped += "\\n",
            '\r' => escaped += "\\r",
            '\t' => escaped += "\\t",
            c => escaped += &format!("\\u{:04x}", u32::from(c)),
        }
    }
    escaped
}

/// Whether a terminal does something else with a character than show it.
fn steers(c: char) -> bool {
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns(c) || matches!(c, '\u{2028}' | '\u{2029}')
}

/// A line that does not fill the screen, whatever it contains: of a long one the beginning and the end.
pub fn brief(line: &str) -> Cow<'_, str> {
    let n_chars = line.chars().count();
    if n_chars <= MOST_CHARS {
        return Cow::Borrowed(line);
    }
    let n_left_out = n_chars - CHARS_AT_START - CHARS_AT_END;
    let start: String = line.chars().take(CHARS_AT_START).collect();
    let end: String = line.chars().skip(n_chars - CHARS_AT_END).collect();
    Cow::Owned(format!(
        "{start} [... {n_left_out} more characters ...] {end}"
    ))
}

/// The text without secrets: tokens of the Hub, and what is before the `@` of an address.
pub fn redacted(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((start, end)) = first_secret(rest) {
        shown += &rest[..start];
        shown += REDACTED;
        rest = &rest[end..];
    }
    if shown.is_empty() {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(shown + rest)
    }
}

/// Whether a text has a secret that [`redacted`] takes out.
pub fn has_secret(text: &str) -> bool {
    first_secret(text).is_some()
}

/// Whether a setting of this name would hold a secret: `hf_token`, `api-key`; not `exclude_tokens`.
pub fn names_secret(name: &str) -> bool {
    let last = name.rsplit(['_', '-', '.', ' ']).next().unwrap_or(name);
    SECRET_WORDS.contains(&last.to_lowercase().as_str())
}

/// Where the first secret begins and ends.
fn first_secret(text: &str) -> Option<(usize, usize)> {
    let token = TOKEN_STARTS
        .iter()
        .filter_map(|start| find_token(text, start));
    token.chain(find_user_of_address(text)).min()
}

fn find_token(text: &str, start: &str) -> Option<(usize, usize)> {
    let token = |(at, _)| {
        let is_word_before = text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        let tail = &text[at + start.len()..];
        let is_part = |c: char| !c.is_ascii_alphanumeric();
        let n_chars = tail.find(is_part).unwrap_or(tail.len());
        let is_token = !is_word_before && n_chars >= MIN_TOKEN_CHARS;
        is_token.then_some((at, at + start.len() + n_chars))
    };
    text.match_indices(start).find_map(token)
}

/// `user:password` of `https://user:password@host`.
fn find_user_of_address(text: &str) -> Option<(usize, usize)> {
    let user = |(at, colon): (usize, &str)| {
        let start = at + colon.len();
        let is_end = |c: char| c.is_whitespace() || "/?#\"'`<>".contains(c);
        let length = text[start..].find(is_end);
        let host = &text[start..start + length.unwrap_or(text.len() - start)];
        let n_bytes = host.rfind('@')?;
        (&host[..n_bytes] != REDACTED).then_some((start, start + n_bytes))
    };
    text.match_indices("://").find_map(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_that_a_shell_reads() {
        for (word, quoted) in [
            ("sweeps/a.toml", "sweeps/a.toml"),
            ("vary.k=[8, 16]", "'vary.k=[8, 16]'"),
            ("it's $HOME", r"'it'\''s $HOME'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(word), quoted);
        }
    }

    #[test]
    fn what_steers_a_terminal_is_spelt_out() {
        let name = "a\n\x1b[2J\r\u{9b}\u{202e}\u{2028}\t\"ß'";
        let one_line = r#"a\n\u001b[2J\r\u009b\u202e\u2028\t"ß'"#;
        assert_eq!(escaped(name), one_line);
        assert_eq!(escaped(one_line), one_line);
        assert_eq!(escaped_lines("a\tb\n\x07"), "a\tb\n\\u0007");
    }

    #[test]
    fn a_long_line_is_cut_in_its_middle() {
        let line = "ä".repeat(1000);
        assert_eq!(brief(&line), line);
        let long = format!("{line}, in the end");
        let cut = brief(&long).into_owned();
        assert!(
            cut.starts_with(&"ä".repeat(600)) && cut.ends_with("ä, in the end"),
            "{cut}"
        );
        assert!(cut.contains("[... 212 more characters ...]"), "{cut}");
    }

    /// JSON that is shown is still the same JSON.
    #[test]
    fn json_stays_what_it_is() {
        let value = serde_json::json!({"\u{9b}31m": "\u{202e}\x1b[2J\n\u{7f}"});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let shown = escaped_lines(&text);
        assert_ne!(shown, text);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }

    #[test]
    fn secrets_are_taken_out() {
        let token = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH";
        for (text, shown) in [
            (format!("--set a={token}"), "--set a=***".to_owned()),
            (format!("{token} and {token}!"), "*** and ***!".into()),
            (
                format!("https://me:{token}@host/x"),
                "https://***@host/x".into(),
            ),
            ("see http://me@host".into(), "see http://***@host".into()),
            ("api_org_abcdefghijklmnopqrst".into(), "***".to_owned()),
        ] {
            assert_eq!(redacted(&text), shown);
            assert!(has_secret(&text) && !has_secret(&shown), "{text}");
        }
        for harmless in [
            "hf_model",
            "half_aaaaaaaaaaaaaaaaaaaaaaaa",
            "https://host/a@b",
            "me@host",
            "",
        ] {
            assert_eq!(redacted(harmless), harmless);
        }
    }

    #[test]
    fn names_of_secrets_are_known() {
        for name in [
            "hf_token",
            "token",
            "train.hf_token",
            "api-key",
            "AWS_SECRET",
        ] {
            assert!(names_secret(name), "{name}");
        }
        for name in ["exclude_tokens", "k", "n_tokens", "keyed", "monkey"] {
            assert!(!names_secret(name), "{name}");
        }
    }
}
