//! What the plots of a report are drawn from.

use super::titles::title_of;
use super::{density, frontier};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use store::{CurvePoint, Report, ReportSae};

/// What the plots are drawn from; becomes JSON on the page.
#[derive(Serialize)]
pub(super) struct Plots {
    /// A group for each hookpoint of each model: the FVUs of others cannot be compared with theirs.
    groups: Vec<Group>,
    /// Each SAE once, though several sweeps or names may ask for it.
    saes: Vec<PlotSae>,
    density_first_log10: f64,
    density_bins_per_decade: u32,
    /// The index in `saes` of each row of the results table.
    #[serde(skip)]
    pub(super) of_row: Vec<usize>,
}

#[derive(Serialize)]
struct Group {
    title: String,
    /// Whether L0 and FVU are those of held-out sequences: if all of the group were evaluated.
    held_out: bool,
    /// Indices in `saes`.
    saes: Vec<usize>,
}

#[derive(Serialize)]
struct PlotSae {
    label: String,
    kind: String,
    sae_id: i64,
    l0: Option<f64>,
    fvu: Option<f64>,
    /// Whether no other SAE of the group is better, and whether none of the same kind is.
    on_frontier: bool,
    best_of_kind: bool,
    ce_recovered: Option<f64>,
    /// Tokens trained on at the end of each interval, and over each interval:
    tokens: Vec<u64>,
    fvu_curve: Vec<Option<f64>>,
    dead_curve: Vec<Option<f64>>,
    /// Counts of latents by firing density; empty if it is not known.
    density: Vec<u32>,
    num_latents: u64,
}

impl Plots {
    /// The plots of a report whose files are in `runs_dir`.
    pub(super) fn new(report: &Report, runs_dir: &Path) -> Self {
        let (rows, of_row) = each_once(&report.saes);
        let mut saes: Vec<_> = rows.iter().map(|row| PlotSae::new(row, runs_dir)).collect();
        let index_of: HashMap<_, _> = rows
            .iter()
            .enumerate()
            .map(|(i, row)| (row.sae_id, i))
            .collect();
        for point in &report.curves {
            if let Some(&index) = index_of.get(&point.sae_id) {
                saes[index].push(point);
            }
        }
        let groups = group(&rows);
        for group in &groups {
            group.fill(&rows, &mut saes);
        }
        Self {
            groups,
            saes,
            density_first_log10: density::FIRST_LOG10,
            density_bins_per_decade: density::BINS_PER_DECADE,
            of_row,
        }
    }
}

impl PlotSae {
    fn new(row: &ReportSae, runs_dir: &Path) -> Self {
        let seed = row.sae.rfind("/seed").map_or("", |at| &row.sae[at..]);
        let density = row.density.as_ref();
        Self {
            label: format!("{}{seed}", row.job),
            kind: row.kind.clone(),
            sae_id: row.sae_id,
            l0: None,
            fvu: None,
            on_frontier: false,
            best_of_kind: false,
            ce_recovered: row.ce_recovered.map(short),
            tokens: Vec::new(),
            fvu_curve: Vec::new(),
            dead_curve: Vec::new(),
            density: density
                .and_then(|path| density::read(&runs_dir.join(path)))
                .unwrap_or_default(),
            num_latents: row.num_latents,
        }
    }

    fn push(&mut self, point: &CurvePoint) {
        let before = self.tokens.last().copied().unwrap_or(0);
        self.tokens.push(before + point.n_tokens);
        self.fvu_curve.push(point.fvu.map(short));
        self.dead_curve.push(Some(short(point.dead_pct)));
    }
}

impl Group {
    /// Sets L0, FVU and the frontier of its SAEs.
    fn fill(&self, rows: &[&ReportSae], saes: &mut [PlotSae]) {
        let point = |&index: &usize| {
            let row = rows[index];
            if self.held_out {
                row.l0_eval.zip(row.fvu_eval)
            } else {
                row.l0.zip(row.fvu)
            }
        };
        let points: Vec<_> = self.saes.iter().map(point).collect();
        let on_frontier = frontier::is_on_frontier(&points);
        let best_of_kind = self.best_of_kind(rows, &points);
        for (position, &index) in self.saes.iter().enumerate() {
            let sae = &mut saes[index];
            sae.on_frontier = on_frontier[position];
            sae.best_of_kind = best_of_kind[position];
            let point = points[position].map(|(l0, fvu)| (short(l0), short(fvu)));
            (sae.l0, sae.fvu) = point.unzip();
        }
    }

    /// Which points are on the frontier of the points of the same kind.
    fn best_of_kind(&self, rows: &[&ReportSae], points: &[Option<(f64, f64)>]) -> Vec<bool> {
        let kinds: Vec<_> = self.saes.iter().map(|&index| &rows[index].kind).collect();
        let mut best = vec![false; points.len()];
        for kind in kinds.iter().collect::<HashSet<_>>() {
            let of_kind = points.iter().zip(&kinds);
            let of_kind: Vec<_> = of_kind
                .map(|(point, own)| point.filter(|_| own == kind))
                .collect();
            for (best, is_on) in best.iter_mut().zip(frontier::is_on_frontier(&of_kind)) {
                *best |= is_on;
            }
        }
        best
    }
}

/// Each SAE once, and for each row the index of its SAE.
fn each_once<'a>(rows: &'a [ReportSae]) -> (Vec<&'a ReportSae>, Vec<usize>) {
    let mut once = Vec::new();
    let mut indices = HashMap::new();
    let mut index_of = |row: &'a ReportSae| {
        *indices.entry(row.sae_id).or_insert_with(|| {
            once.push(row);
            once.len() - 1
        })
    };
    let of_row = rows.iter().map(&mut index_of).collect();
    (once, of_row)
}

fn group(rows: &[&ReportSae]) -> Vec<Group> {
    let has_models = rows
        .iter()
        .any(|row| row.model_digest != rows[0].model_digest);
    let mut groups: Vec<Group> = Vec::new();
    let mut group_indices = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let key = (&row.model_digest, &row.hookpoint);
        let group_idx = *group_indices.entry(key).or_insert_with(|| {
            groups.push(Group {
                title: title(row, has_models),
                held_out: true,
                saes: Vec::new(),
            });
            groups.len() - 1
        });
        groups[group_idx].saes.push(index);
        groups[group_idx].held_out &= row.fvu_eval.is_some();
    }
    groups
}

fn title(row: &ReportSae, has_models: bool) -> String {
    if has_models {
        format!("{} of {}", title_of(&row.hookpoint), row.model)
    } else {
        title_of(&row.hookpoint)
    }
}

/// Four digits: what a plot can show, in fewer bytes.
fn short(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}
