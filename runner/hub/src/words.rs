//! Parts of what is said of errors.

use std::time::Duration;

/// Most characters of a text from elsewhere that are shown.
const MAX_SHOWN_CHARS: usize = 300;

/// Whole seconds.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{} seconds", time.as_secs())
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
