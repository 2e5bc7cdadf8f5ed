//! Lists of patterns.

/// Patterns as they were given: with commas between them, with the option once for each, or both.
pub fn patterns(given: &[String]) -> Vec<String> {
    let patterns = given.iter().flat_map(|text| listed(text));
    patterns.map(str::to_owned).collect()
}

/// The parts of a text between its commas. Those in brackets are of a pattern, such as `layers.[1,3]`.
pub(crate) fn listed(text: &str) -> impl Iterator<Item = &str> {
    let mut is_in_brackets = false;
    let parts = text.split(move |c: char| {
        match c {
            '[' => is_in_brackets = true,
            ']' => is_in_brackets = false,
            _ => {}
        }
        c == ',' && !is_in_brackets
    });
    parts.filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_at_commas_outside_of_brackets() {
        let parts = |text| listed(text).collect::<Vec<_>>();
        assert_eq!(parts("h.0,h.[1,3],"), ["h.0", "h.[1,3]"]);
        assert_eq!(parts("h.*"), ["h.*"]);
        assert!(parts("").is_empty());
        let given = ["h.0,h.1", "h.2"].map(str::to_owned);
        assert_eq!(patterns(&given), ["h.0", "h.1", "h.2"]);
    }
}
