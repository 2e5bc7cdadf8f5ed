//! Kinds of SAEs at equal L0, as tables.

use super::columns::{Cell, grouped, number};
use super::frontier::SAME_L0;
use super::titles::title_of;
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use store::{KindComparison, Report};

/// The SAEs of a hookpoint with the same number of latents.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    title: String,
    /// The kinds that the columns of FVU are of.
    kinds: Vec<String>,
    rows: Vec<Row>,
}

/// An L0 that some SAE has, and what each kind leaves unexplained at it.
#[derive(Debug, Serialize)]
struct Row {
    /// The SAEs that have it.
    sae_ids: BTreeSet<i64>,
    l0: Cell,
    fvu: Vec<Cell>,
    /// Index of the least FVU.
    best: Option<usize>,
}

/// The tables of a report; empty if it has one kind.
pub(super) fn of(report: &Report) -> Vec<Comparison> {
    let has_sweeps = report.sweeps.len() > 1;
    let of_table = |row: &KindComparison| {
        (
            row.sweep.clone(),
            row.models.clone(),
            row.hookpoint.clone(),
            row.num_latents,
        )
    };
    let same_table = |a: &KindComparison, b: &KindComparison| of_table(a) == of_table(b);
    let has_models = report
        .comparisons
        .iter()
        .any(|row| row.models != report.comparisons[0].models);
    let table = |rows: &[KindComparison]| {
        let first = &rows[0];
        let latents = grouped(first.num_latents);
        let of_model = if has_models {
            format!(" of {}", first.model)
        } else {
            String::new()
        };
        let title = format!(
            "{}{of_model}, {latents} latents",
            title_of(&first.hookpoint)
        );
        if has_sweeps {
            Comparison::new(format!("{}: {title}", first.sweep), rows)
        } else {
            Comparison::new(title, rows)
        }
    };
    report.comparisons.chunk_by(same_table).map(table).collect()
}

impl Comparison {
    /// The table of these rows, which are in the order of their L0.
    fn new(title: String, rows: &[KindComparison]) -> Self {
        let kinds = rows.iter().flat_map(|row| [&row.kind, &row.other_kind]);
        let kinds: BTreeSet<_> = kinds.cloned().collect();
        let kinds: Vec<_> = kinds.into_iter().collect();
        let same_l0 = |a: &KindComparison, b: &KindComparison| b.l0 <= a.l0 * (1.0 + SAME_L0);
        let rows = rows.chunk_by(same_l0).map(|rows| Row::new(rows, &kinds));
        Self {
            title,
            rows: rows.collect(),
            kinds,
        }
    }
}

impl Row {
    fn new(rows: &[KindComparison], kinds: &[String]) -> Self {
        let fvu_of = |kind: &String| {
            let own = rows.iter().filter(|row| row.kind == *kind);
            let other = rows.iter().filter(|row| row.other_kind == *kind);
            let fvus = own.map(|row| row.fvu);
            fvus.chain(other.map(|row| row.other_fvu))
                .min_by(f64::total_cmp)
        };
        let fvu: Vec<_> = kinds.iter().map(fvu_of).collect();
        let known = fvu.iter().enumerate().filter(|(_, fvu)| fvu.is_some());
        let best = known.min_by(|(_, a), (_, b)| a.partial_cmp(b).unwrap_or(Ordering::Equal));
        Self {
            sae_ids: rows.iter().map(|row| row.sae_id).collect(),
            l0: number(Some(rows[0].l0), 1),
            best: best.map(|(index, _)| index),
            fvu: fvu.into_iter().map(|fvu| number(fvu, 4)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(
        sae_id: i64,
        kind: &str,
        l0: f64,
        (other_kind, other_fvu): (&str, f64),
    ) -> KindComparison {
        KindComparison {
            sweep: "s".into(),
            model: "m".into(),
            models: "m0".into(),
            hookpoint: "layers.0".into(),
            num_latents: 1024,
            job: format!("job {sae_id}"),
            sae: "layers.0".into(),
            sae_id,
            kind: kind.into(),
            l0,
            fvu: 0.5,
            other_kind: other_kind.into(),
            other_fvu,
        }
    }

    #[test]
    fn a_row_has_the_fvu_of_each_kind_at_one_l0() {
        let rows = [
            row(1, "topk", 32.0, ("batchtopk", 0.25)),
            row(1, "topk", 32.0, ("relu", 0.75)),
            row(2, "topk", 32.1, ("batchtopk", 0.375)),
            row(3, "batchtopk", 40.0, ("topk", 0.625)),
        ];
        let table = Comparison::new(String::new(), &rows);
        assert_eq!(table.kinds, ["batchtopk", "relu", "topk"]);
        let [first, second] = &table.rows[..] else {
            panic!("{:?}", table.rows);
        };
        let texts =
            |row: &Row| -> Vec<_> { row.fvu.iter().map(|cell| cell.text.clone()).collect() };
        assert_eq!(texts(first), ["0.2500", "0.7500", "0.5000"]);
        assert_eq!(texts(second), ["0.5000", "", "0.6250"]);
        assert_eq!((first.best, second.best), (Some(0), Some(0)));
        assert_eq!(
            (first.l0.text.as_str(), second.l0.text.as_str()),
            ("32.0", "40.0")
        );
        assert_eq!((first.sae_ids.len(), second.sae_ids.len()), (2, 1));
    }
}
