//! Numbers of things and of bytes, as messages have them.

/// `1 job`, `2 jobs`.
pub fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A number of bytes, in the unit that suits it.
pub fn bytes(n_bytes: u64) -> String {
    match n_bytes {
        0..1_000 => format!("{n_bytes} B"),
        1_000..1_000_000 => format!("{} kB", n_bytes.div_ceil(1_000)),
        1_000_000..1_000_000_000 => format!("{} MB", n_bytes.div_ceil(1_000_000)),
        _ => format!("{:.1} GB", n_bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_units_fit() {
        assert_eq!(
            [count(0, "job"), count(1, "job"), count(2, "job")],
            ["0 jobs", "1 job", "2 jobs"]
        );
        let sizes = [999, 1_001, 64 << 20, 2_450_000_000];
        assert_eq!(sizes.map(bytes), ["999 B", "2 kB", "68 MB", "2.5 GB"]);
    }
}
