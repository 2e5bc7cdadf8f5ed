//! Parts of what is said of errors.

use std::time::Duration;

/// Most characters of a text from elsewhere that are shown.
const MAX_SHOWN_CHARS: usize = 300;

pub(crate) fn told_to(has_token: bool) -> &'static str {
    match has_token {
        true => " that this token may see",
        false => "",
    }
}

pub(crate) fn access(is_gated: bool, has_token: bool) -> &'static str {
    match (is_gated, has_token) {
        (true, true) => "it is gated, and this token's owner has no access yet",
        (true, false) => "it is gated, and there is no token",
        (false, true) => "this token may not read it",
        (false, false) => "there is no token",
    }
}

pub(crate) fn at(page: Option<&str>) -> String {
    page.map(|page| format!(": {page}")).unwrap_or_default()
}

pub(crate) fn saying(message: &str) -> String {
    match message {
        "" => String::new(),
        message => format!(": {message}"),
    }
}

pub(crate) fn file_of(file: Option<&str>) -> String {
    file.map(|file| format!("`{file}` of ")).unwrap_or_default()
}

pub(crate) fn wait(retry_after: Option<Duration>) -> String {
    let seconds = |wait: Duration| format!(" for {} seconds", wait.as_secs());
    retry_after.map(seconds).unwrap_or_default()
}

pub(crate) fn after(waited: Duration) -> String {
    match waited.as_secs() {
        0 => String::new(),
        seconds => format!(", after {seconds} seconds of waiting"),
    }
}

/// A number of bytes, in the unit that suits it.
pub(crate) fn size(n_bytes: u64) -> String {
    match n_bytes {
        0..1_000_000 => format!("{n_bytes} bytes"),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n_bytes as f64 / 1e6),
        _ => format!("{:.1} GB", n_bytes as f64 / 1e9),
    }
}

/// A text from elsewhere as far as it is shown: it may be as long as an answer.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_that_suits() {
        let sizes = [7, 12_345_678, 1_000_000_000_000].map(size);
        assert_eq!(sizes, ["7 bytes", "12.3 MB", "1000.0 GB"]);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("ä"), "ä");
        assert_eq!(cut(&"ä".repeat(1000)), "ä".repeat(300) + "...");
    }
}
