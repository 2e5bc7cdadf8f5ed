//! Activations on their way to the ranks that train SAEs on them, if each SAE is on one rank.

use super::Ranks;
use crate::TrainError;
use crate::activations::views::{View, Views};
use std::collections::{BTreeMap, BTreeSet};
use tch::{Kind, Tensor};

/// Sends the activations of forward passes to the ranks that have SAEs on them: one all-to-all for a pass,
/// in what the model computes in.
pub(crate) struct Exchange<'a> {
    ranks: &'a dyn Ranks,
    /// What each rank takes, by rank; rows are sent in this order.
    routes: Vec<BTreeSet<View>>,
    /// Without rows: what a rank has of each view when its part of a batch is used up before that of others.
    nothing: BTreeMap<View, Tensor>,
}

/// Rows that a rank has of each view in a pass.
type NumbersOfRows<'a> = BTreeMap<&'a View, i64>;

/// Activations of a pass, as SAEs take them.
pub(crate) struct Inputs<'a> {
    /// This rank's; `None`: it has no part of the pass.
    views: Option<Views<'a>>,
    received: Received,
}

/// Activations of all ranks for the SAEs of this one.
type Received = BTreeMap<View, Tensor>;

impl Inputs<'_> {
    /// `[n_tokens, width]`, Float: this rank's, or with `is_of_all` the rows of rank 0, then those of rank 1
    /// and so on. `None`: this rank has no part of the pass.
    pub(crate) fn get(
        &mut self,
        view: &View,
        is_of_all: bool,
    ) -> Result<Option<Tensor>, TrainError> {
        match (is_of_all, &mut self.views) {
            (true, _) => Ok(Some(self.received[view].f_to_kind(Kind::Float)?)),
            (false, Some(views)) => views.get(view).map(Some),
            (false, None) => Ok(None),
        }
    }
}

impl<'a> Exchange<'a> {
    /// `takes`: which rank takes which view; the same on all ranks.
    pub(crate) fn new(ranks: &'a dyn Ranks, takes: impl Iterator<Item = (usize, View)>) -> Self {
        let mut routes = vec![BTreeSet::new(); ranks.number()];
        for (rank, view) in takes {
            routes[rank].insert(view);
        }
        Self {
            ranks,
            routes,
            nothing: BTreeMap::new(),
        }
    }

    /// Sends and receives the activations of a pass; `None`: this rank has no part of it.
    pub(crate) fn pass<'b>(&mut self, views: Option<Views<'b>>) -> Result<Inputs<'b>, TrainError> {
        let received = if self.routes.iter().all(BTreeSet::is_empty) {
            Received::default()
        } else {
            self.send(views.as_ref())?
        };
        Ok(Inputs { views, received })
    }

    fn send(&mut self, views: Option<&Views<'_>>) -> Result<Received, TrainError> {
        let ours = self.ours(views)?;
        let n_rows: Vec<i64> = ours.values().map(|rows| rows.size()[0]).collect();
        let gathered = self.ranks.gather("rows of a pass", &n_rows)?;
        let by_view = |n_rows: Vec<i64>| ours.keys().zip(n_rows).collect();
        let n_rows: Vec<NumbersOfRows<'_>> = gathered.into_iter().map(by_view).collect();
        let n_bytes = |n_rows: &NumbersOfRows<'_>, views: &BTreeSet<View>| -> usize {
            let of_view = |view| n_rows[view] as usize * row_bytes(&ours[view]);
            views.iter().map(of_view).sum()
        };
        let this_rank = self.ranks.rank();
        let taken = &self.routes[this_rank];
        let to = self
            .routes
            .iter()
            .map(|views| n_bytes(&n_rows[this_rank], views));
        let from = n_rows.iter().map(|n_rows| n_bytes(n_rows, taken));
        let sizes = (&*to.collect::<Vec<_>>(), &*from.collect::<Vec<_>>());
        let bytes = self.packed(&ours)?;
        let received = self.ranks.exchange("activations", &bytes, sizes)?;
        drop(bytes);
        unpacked(&received, taken, &ours, &n_rows)
    }

    /// This rank's rows of every view, all of one kind.
    fn ours(&mut self, views: Option<&Views<'_>>) -> Result<BTreeMap<View, Tensor>, TrainError> {
        let Some(views) = views else {
            let nothing = self.nothing.iter();
            return Ok(nothing
                .map(|(view, rows)| (view.clone(), rows.shallow_clone()))
                .collect());
        };
        let mut ours = BTreeMap::new();
        for view in self.routes.iter().flatten() {
            if !ours.contains_key(view) {
                ours.insert(view.clone(), views.rows(view)?);
            }
        }
        let mut kinds = ours.values().map(Tensor::kind);
        let first = kinds.next();
        if kinds.any(|kind| Some(kind) != first) {
            for rows in ours.values_mut() {
                *rows = rows.f_to_kind(Kind::Float)?;
            }
        }
        for (view, rows) in &ours {
            if !self.nothing.contains_key(view) {
                let options = (rows.kind(), rows.device());
                let nothing = Tensor::f_zeros([0, rows.size()[1]], options)?;
                self.nothing.insert(view.clone(), nothing);
            }
        }
        Ok(ours)
    }

    /// What is sent: `[n_bytes]`, Uint8, for rank 0, then for rank 1 and so on.
    fn packed(&self, ours: &BTreeMap<View, Tensor>) -> Result<Tensor, TrainError> {
        let views = self.routes.iter().flatten();
        let flat = views.map(|view| ours[view].f_flatten(0, -1));
        let flat = Tensor::f_cat(&flat.collect::<Result<Vec<_>, _>>()?, 0)?;
        // As bytes: not every backend knows every kind.
        Ok(flat.f_view_dtype(Kind::Uint8)?)
    }
}

/// Bytes of one of `rows`.
fn row_bytes(rows: &Tensor) -> usize {
    rows.size()[1] as usize * rows.kind().elt_size_in_bytes()
}

/// The rows of each of the views `taken`, from the bytes of all ranks one after the other. `ours` tells
/// widths and kind.
fn unpacked(
    bytes: &Tensor,
    taken: &BTreeSet<View>,
    ours: &BTreeMap<View, Tensor>,
    n_rows: &[NumbersOfRows<'_>],
) -> Result<Received, TrainError> {
    let kind = ours.values().next().map_or(Kind::Float, Tensor::kind);
    let flat = bytes.f_view_dtype(kind)?;
    let mut start = 0;
    let mut parts: BTreeMap<&View, Vec<Tensor>> = BTreeMap::new();
    for n_rows in n_rows {
        for view in taken {
            let (n, width) = (n_rows[view], ours[view].size()[1]);
            let part = flat.f_narrow(0, start, n * width)?.f_view([n, width])?;
            parts.entry(view).or_default().push(part);
            start += n * width;
        }
    }
    let whole = parts
        .into_iter()
        .map(|(view, parts)| Ok((view.clone(), Tensor::f_cat(&parts, 0)?)));
    whole.collect()
}
