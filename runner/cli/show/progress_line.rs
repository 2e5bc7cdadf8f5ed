//! A line of progress that fits the terminal: what says least gives way.

use crate::show::duration::short_duration;
use std::time::Duration;

const FULL: &str = "━";
const EMPTY: &str = "─";
/// Widths of a bar.
const LONGEST_BAR: usize = 24;
const SHORTEST_BAR: usize = 4;

/// What a line says.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProgressLine {
    /// What it is about.
    pub(crate) lead: String,
    /// How much is done, from 0 to 1; `None`: no bar.
    pub(crate) share: Option<f64>,
    /// Texts, those that say most first.
    pub(crate) parts: Vec<String>,
}

impl ProgressLine {
    /// At most `width` characters. The bar has what the texts leave. Without space for all texts, the last ones are
    /// left out.
    pub(crate) fn fit(&self, width: usize) -> String {
        let mut n_parts = self.parts.len();
        let text = loop {
            let text = self.parts[..n_parts].join(", ");
            let fits = self.lead.chars().count() + 1 + text.chars().count() <= width;
            if fits || n_parts <= 1 {
                break text;
            }
            n_parts -= 1;
        };
        let taken = self.lead.chars().count() + 1 + text.chars().count();
        let left = width.saturating_sub(taken + 1);
        let bar = self.share.filter(|_| left >= SHORTEST_BAR);
        let bar = bar.map(|share| bar_of(share, left.min(LONGEST_BAR)));
        let pieces = [Some(self.lead.clone()), bar, Some(text)];
        let pieces: Vec<String> = pieces
            .into_iter()
            .flatten()
            .filter(|piece| !piece.is_empty())
            .collect();
        pieces.join(" ").chars().take(width).collect()
    }
}

fn bar_of(share: f64, width: usize) -> String {
    let n_full = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    FULL.repeat(n_full) + &EMPTY.repeat(width - n_full)
}

/// `3m09s left`.
pub(crate) fn left(time: Option<Duration>) -> Option<String> {
    time.map(|time| format!("{} left", short_duration(time)))
}

/// `2,773` or `12.3k`, at most five characters up to a million.
pub(crate) fn compact(n: f64) -> String {
    match n {
        n if n < 9_999.5 => format!("{n:.0}"),
        n if n < 99_950.0 => format!("{:.1}k", n / 1e3),
        n if n < 999_500.0 => format!("{:.0}k", n / 1e3),
        n => format!("{:.1}M", n / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> ProgressLine {
        ProgressLine {
            lead: "stream 1/5".into(),
            share: Some(0.25),
            parts: [
                "11900/55300 steps",
                "3h09m left",
                "12.3k tokens/s",
                "FVU 0.247-0.509",
            ]
            .map(str::to_owned)
            .into(),
        }
    }

    #[test]
    fn at_80_columns_all_is_there_and_at_120_the_bar_is_longer() {
        let narrow = line().fit(80);
        assert_eq!(
            narrow,
            "stream 1/5 ━━──── 11900/55300 steps, 3h09m left, 12.3k tokens/s, FVU 0.247-0.509"
        );
        let wide = line().fit(120);
        assert!(
            wide.contains(&"━".repeat(6)) && wide.chars().count() <= 120,
            "{wide}"
        );
        assert!(wide.ends_with("FVU 0.247-0.509"), "{wide}");
    }

    #[test]
    fn without_space_the_bar_goes_first_and_then_the_last_texts() {
        let short = line().fit(60);
        assert_eq!(
            short,
            "stream 1/5 11900/55300 steps, 3h09m left, 12.3k tokens/s"
        );
        assert_eq!(line().fit(30), "stream 1/5 11900/55300 steps");
        assert_eq!(line().fit(8).chars().count(), 8);
    }

    #[test]
    fn speeds_are_short() {
        for (n, text) in [
            (2773.2, "2773"),
            (12_345.0, "12.3k"),
            (123_456.0, "123k"),
            (2.5e6, "2.5M"),
        ] {
            assert_eq!(compact(n), text);
        }
    }
}
