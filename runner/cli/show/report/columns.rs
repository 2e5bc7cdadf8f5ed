//! The columns of the results table, each with its definition.

use serde::Serialize;
use store::ReportSae;

/// A cell.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    /// As it is shown on the page.
    pub(super) text: String,
    /// What it is sorted by, if it is a number.
    number: Option<f64>,
}

/// A column of the table.
#[derive(Serialize)]
pub(super) struct Column {
    title: &'static str,
    /// In the view `result`.
    name: &'static str,
    definition: &'static str,
    is_number: bool,
    #[serde(skip)]
    cell: fn(&ReportSae) -> Cell,
}

impl Column {
    pub(super) fn cell(&self, sae: &ReportSae) -> Cell {
        (self.cell)(sae)
    }
}

/// The columns that tell the SAEs apart or say something about them: not those in which all cells are empty, and
/// not the names of sweeps if there is only one.
pub(super) fn of(saes: &[ReportSae]) -> Vec<Column> {
    let has_sweeps = saes.iter().any(|sae| sae.sweep != saes[0].sweep);
    let columns = COLUMNS.iter().skip(usize::from(!has_sweeps));
    let column = |&(title, name, definition, cell): &Row| {
        let cells: Vec<Cell> = saes.iter().map(cell).collect();
        let is_empty = cells.iter().all(|cell| cell.text.is_empty());
        (!is_empty).then(|| Column {
            title,
            name,
            definition,
            is_number: cells.iter().any(|cell| cell.number.is_some()),
            cell,
        })
    };
    columns.filter_map(column).collect()
}

type Row = (
    &'static str,
    &'static str,
    &'static str,
    fn(&ReportSae) -> Cell,
);

const COLUMNS: [Row; 25] = [
    ("sweep", "sweep", "Name of the sweep.", |sae| {
        text(&sae.sweep)
    }),
    ("job", "job", "Name of the job in the sweep.", |sae| {
        text(&sae.job)
    }),
    (
        "SAE",
        "sae",
        "Hookpoint, and the seed if the job has several.",
        |sae| text(&sae.sae),
    ),
    ("status", "status", "The state of the job.", |sae| {
        text(&sae.status.to_string())
    }),
    (
        "kind",
        "kind",
        "Kind of SAE: the activation, after matryoshka or hierarchical if it is nested.",
        |sae| text(&sae.kind),
    ),
    (
        "k",
        "k",
        "Latents a token may use; on average with batchtopk, without effect with relu, gated and jumprelu.",
        |sae| Cell {
            text: sae.k.to_string(),
            number: Some(sae.k.mean()),
        },
    ),
    ("latents", "num_latents", "Number of latents.", |sae| {
        count(Some(sae.num_latents))
    }),
    ("lr", "lr", "Learning rate.", |sae| Cell {
        text: format!("{:.2e}", sae.lr),
        number: Some(sae.lr),
    }),
    (
        "update",
        "tokens_per_update",
        "Tokens of an optimizer update, of all processes together.",
        |sae| count(sae.tokens_per_update),
    ),
    ("tokens", "n_tokens", "Tokens trained on.", |sae| {
        count(sae.n_tokens)
    }),
    (
        "FVU",
        "fvu",
        "Fraction of variance unexplained in training, over the last tenth of the steps: squared error over total variance.",
        |sae| number(sae.fvu, 4),
    ),
    (
        "L0",
        "l0",
        "Mean number of active latents a token, over the same steps.",
        |sae| number(sae.l0, 1),
    ),
    (
        "dead %",
        "dead_pct",
        "Latents that were silent for more than dead_feature_threshold tokens at the end of training.",
        |sae| number(sae.dead_pct, 1),
    ),
    (
        "threshold",
        "threshold",
        "Calibrated threshold: with it, held-out tokens have k active latents on average.",
        |sae| number(sae.threshold, 4),
    ),
    (
        "L0 calibrated",
        "l0_calibrated",
        "Mean number of active latents a held-out token with the calibrated threshold.",
        |sae| number(sae.l0_calibrated, 1),
    ),
    (
        "EMA threshold",
        "threshold_ema",
        "Threshold that training estimated, as an exponential moving average.",
        |sae| number(sae.threshold_ema, 4),
    ),
    (
        "EMA L0",
        "l0_ema",
        "Mean number of active latents a held-out token with the threshold that training estimated.",
        |sae| number(sae.l0_ema, 1),
    ),
    (
        "FVU held out",
        "fvu_eval",
        "Fraction of variance unexplained on held-out sequences.",
        |sae| number(sae.fvu_eval, 4),
    ),
    (
        "L0 held out",
        "l0_eval",
        "Mean number of active latents a held-out token.",
        |sae| number(sae.l0_eval, 1),
    ),
    (
        "silent %",
        "dead_pct_eval",
        "Latents that fired on no held-out token.",
        |sae| number(sae.dead_pct_eval, 1),
    ),
    (
        "CE spliced",
        "ce_spliced",
        "Cross-entropy of the next held-out token, in nats, with the SAE's output instead of the hookpoint's.",
        |sae| number(sae.ce_spliced, 4),
    ),
    (
        "CE recovered",
        "ce_recovered",
        "Share of what ablating the hookpoint to its mean costs in cross-entropy that the SAE recovers: (ablated - spliced) / (ablated - clean).",
        |sae| number(sae.ce_recovered, 4),
    ),
    (
        "KL",
        "kl",
        "Divergence KL(clean || spliced) of the model's predictions, in nats a held-out token.",
        |sae| number(sae.kl, 4),
    ),
    (
        "minutes",
        "training_seconds / 60",
        "Wall time of the updates of all attempts at the job; jobs of one stream share it.",
        |sae| number(sae.training_seconds.map(|seconds| seconds / 60.0), 1),
    ),
    (
        "tokens/s",
        "tokens_per_s",
        "Tokens a second through the language model; jobs of one stream share that pass.",
        |sae| number(sae.tokens_per_s, 0),
    ),
];

fn text(text: &str) -> Cell {
    Cell {
        text: text.to_owned(),
        number: None,
    }
}

fn count(n: Option<u64>) -> Cell {
    Cell {
        text: n.map(grouped).unwrap_or_default(),
        number: n.map(|n| n as f64),
    }
}

pub(super) fn number(value: Option<f64>, digits: usize) -> Cell {
    Cell {
        text: value.map_or_else(String::new, |value| format!("{value:.digits$}")),
        number: value,
    }
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        let texts = [0, 12, 123, 1234, 123_456, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }
}
