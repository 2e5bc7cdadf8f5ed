//! Curves in a terminal.

/// Columns of a plot, in characters.
const WIDTH: usize = 60;
/// Lines of a plot.
const HEIGHT: usize = 6;

/// Bits of a braille character's dots, by column and by row from the top.
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// A curve as lines of text: the greatest and the least value at the left, the curve in dots. Points
/// that fall on one column of dots are one by their mean. Empty if there are no two finite points.
pub(crate) fn plot(points: &[(f64, f64)]) -> String {
    let finite = |&&(x, y): &&(f64, f64)| x.is_finite() && y.is_finite();
    let points: Vec<(f64, f64)> = points.iter().filter(finite).copied().collect();
    if points.len() < 2 {
        return String::new();
    }
    let (left, right) = range(points.iter().map(|point| point.0));
    let (low, high) = range(points.iter().map(|point| point.1));
    let mut cells = [[0_u32; WIDTH]; HEIGHT];
    let known = columns(&points, left, right);
    let row = |y: f64| index_of(high - y, high - low, 4 * HEIGHT);
    let mut last = row(known.first().map_or(low, |(_, y)| *y));
    for pair in known.windows(2) {
        let [(from, y0), (to, y1)] = [pair[0], pair[1]];
        for column in from..=to {
            let share = (column - from) as f64 / (to - from) as f64;
            let now = row(y0 + (y1 - y0) * share);
            // A steep fall stays one line.
            for row in last.min(now)..=last.max(now) {
                cells[row / 4][column / 2] |= DOTS[column % 2][row % 4];
            }
            last = now;
        }
    }
    draw(&cells, low, high)
}

/// The mean of the points on each column of dots that has some.
fn columns(points: &[(f64, f64)], left: f64, right: f64) -> Vec<(usize, f64)> {
    let mut sums = vec![(0.0, 0_u32); 2 * WIDTH];
    for (x, y) in points {
        let (sum, n) = &mut sums[index_of(x - left, right - left, 2 * WIDTH)];
        *sum += y;
        *n += 1;
    }
    let columns = sums.into_iter().enumerate();
    let used = columns.filter(|(_, (_, n))| *n > 0);
    used.map(|(column, (sum, n))| (column, sum / f64::from(n)))
        .collect()
}

/// The index, of `n`, that `offset` of `length` falls on.
fn index_of(offset: f64, length: f64, n: usize) -> usize {
    let share = if length > 0.0 { offset / length } else { 0.0 };
    ((share * (n - 1) as f64).round() as usize).min(n - 1)
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

fn draw(cells: &[[u32; WIDTH]; HEIGHT], low: f64, high: f64) -> String {
    let line = |(index, cells): (usize, &[u32; WIDTH])| {
        let label = match index {
            0 => format!("{high:.4}"),
            _ if index == HEIGHT - 1 => format!("{low:.4}"),
            _ => String::new(),
        };
        let dots = cells
            .iter()
            .map(|bits| char::from_u32(0x2800 + bits).unwrap_or(' '));
        format!("{label:>10} ┤{}\n", dots.collect::<String>())
    };
    cells.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_line_falls() {
        let points: Vec<_> = (0..200).map(|i| (f64::from(i), f64::from(-i))).collect();
        let text = plot(&points);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), HEIGHT);
        assert!(lines[0].starts_with("    0.0000 ┤"), "{text}");
        assert!(lines[5].starts_with(" -199.0000 ┤"), "{text}");
        let first = |line: &str| line.chars().skip(12).position(|c| c != '\u{2800}');
        let starts: Vec<_> = lines.iter().map(|line| first(line).unwrap()).collect();
        assert!(starts.is_sorted() && starts[0] == 0, "{text}");
    }

    #[test]
    fn odd_points_do_no_harm() {
        assert_eq!(plot(&[]), "");
        assert_eq!(plot(&[(1.0, 2.0)]), "");
        assert_eq!(plot(&[(1.0, f64::NAN), (2.0, 1.0)]), "");
        for points in [[(1.0, 1.0), (1.0, 1.0)], [(0.0, -1e300), (1e300, 1e300)]] {
            assert!(!plot(&points).is_empty());
        }
    }
}
