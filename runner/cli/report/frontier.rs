//! Which SAEs are best for what they cost.

/// Which of the points `(l0, fvu)` are on the frontier: no other has at most as much of both and less of one.
pub(super) fn is_on_frontier(points: &[Option<(f64, f64)>]) -> Vec<bool> {
    let beats = |a: (f64, f64), b: (f64, f64)| a.0 <= b.0 && a.1 <= b.1 && a != b;
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
}
