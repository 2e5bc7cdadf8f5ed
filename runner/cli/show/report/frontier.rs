//! Which SAEs are best for what they cost.

/// Smaller differences of L0, as a share of it, decide nothing: if a few tokens have fewer than `k` active
/// latents, 16 becomes 15.9997.
pub(super) const SAME_L0: f64 = 5e-3;
/// The same of FVU, whose last digits are those of sums in another order.
const SAME_FVU: f64 = 1e-4;

/// Which of the points `(l0, fvu)` are on the frontier: no other has at most as much of both and less of one.
pub(super) fn is_on_frontier(points: &[Option<(f64, f64)>]) -> Vec<bool> {
    let is_less = |a: f64, b: f64, same: f64| a < b * (1.0 - same);
    let beats = |a: (f64, f64), b: (f64, f64)| {
        let is_worse = is_less(b.0, a.0, SAME_L0) || is_less(b.1, a.1, SAME_FVU);
        !is_worse && (is_less(a.0, b.0, SAME_L0) || is_less(a.1, b.1, SAME_FVU))
    };
    let is_beaten = |b| points.iter().flatten().any(|&a| beats(a, b));
    let is_on = |point: &Option<(f64, f64)>| point.is_some_and(|point| !is_beaten(point));
    points.iter().map(is_on).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_beats_is_not_on_the_frontier() {
        let points = [
            Some((16.0, 0.5)),
            Some((32.0, 0.4)),
            Some((32.0, 0.45)),
            Some((30.0, 0.6)),
            Some((32.0, 0.4)),
            None,
        ];
        let expected = [true, true, false, false, true, false];
        assert_eq!(is_on_frontier(&points), expected);
    }

    #[test]
    fn what_only_rounding_tells_apart_is_the_same() {
        let is_on = |points: &[(f64, f64)]| {
            is_on_frontier(&points.iter().copied().map(Some).collect::<Vec<_>>())
        };
        assert_eq!(is_on(&[(15.9997, 0.31), (16.0, 0.30)]), [false, true]);
        assert_eq!(is_on(&[(16.0, 0.31), (15.9997, 0.30)]), [false, true]);
        assert_eq!(is_on(&[(16.0, 0.30), (32.0, 0.299_999)]), [true, false]);
        assert_eq!(is_on(&[(15.9997, 0.300_001), (16.0, 0.30)]), [true, true]);
        // What is a choice stays one.
        assert_eq!(is_on(&[(15.0, 0.31), (16.0, 0.30)]), [true, true]);
        assert_eq!(is_on(&[(16.0, 0.30), (32.0, 0.299)]), [true, true]);
    }
}
