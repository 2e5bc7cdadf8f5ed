//! Hookpoints as headings.

/// The hookpoint of an SAE; of a crosscoder's, only the first and the last if there are more than three.
pub(super) fn title_of(hookpoint: &str) -> String {
    let names: Vec<&str> = hookpoint.split('+').collect();
    match names[..] {
        [first, _, _, .., last] => format!("{first} … {last} ({})", names.len()),
        _ => names.join(" + "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_hookpoints_are_shown_by_the_first_and_the_last() {
        assert_eq!(title_of("layers.0"), "layers.0");
        assert_eq!(title_of("a+b+c"), "a + b + c");
        assert_eq!(title_of("a+b+c+2:d"), "a … 2:d (4)");
    }
}
