//! Activations on their way to the ranks that train SAEs on them, where each SAE is on one rank.

use crate::TrainError;
use crate::ranks::Ranks;
use crate::views::{View, Views};
use std::collections::{BTreeMap, BTreeSet};
use tch::{Kind, Tensor};

/// Sends the activations of forward passes to the ranks that have SAEs on them: one all-to-all for a pass,
/// in what the model computes in.
pub(crate) struct Exchange<'a> {
    ranks: Ranks<'a>,
    /// Which rank takes which view, in the order in which rows are sent.
    routes: BTreeSet<(usize, View)>,
    /// Without rows: what a rank has of each view when its part of a batch is used up before that of others.
    nothing: BTreeMap<View, Tensor>,
}

/// Activations of all ranks for the SAEs of this one.
#[derive(Default)]
pub(crate) struct Received(BTreeMap<View, Tensor>);

impl Received {
    /// `[n_tokens, width]`, Float: the rows of rank 0, then those of rank 1 and so on.
    pub(crate) fn get(&self, view: &View) -> Result<Tensor, TrainError> {
        Ok(self.0[view].f_to_kind(Kind::Float)?)
    }
}

impl<'a> Exchange<'a> {
    /// `routes`: which rank takes which view; the same on all ranks.
    pub(crate) fn new(ranks: Ranks<'a>, routes: BTreeSet<(usize, View)>) -> Self {
        Self {
            ranks,
            routes,
            nothing: BTreeMap::new(),
        }
    }

    /// Sends and receives the activations of a pass; `None`: this rank has no part of it.
    pub(crate) fn pass(&mut self, views: Option<&Views<'_>>) -> Result<Received, TrainError> {
        if self.routes.is_empty() {
            return Ok(Received::default());
        }
        let ours = self.ours(views)?;
        let n_rows: Vec<i64> = ours.values().map(|rows| rows.size()[0]).collect();
        let n_rows = self.ranks.gather("rows of a pass", &n_rows)?;
        let kind = ours.values().next().map_or(Kind::Float, Tensor::kind);
        let bytes = self.packed(&ours)?;
        let received = {
            let (to, from) = self.sizes(&ours, &n_rows);
            self.ranks.all_to_all("activations", &bytes, (&to, &from))?
        };
        drop(bytes);
        self.unpacked(&received.f_view_dtype(kind)?, &ours, &n_rows)
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
        for (_, view) in &self.routes {
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
        let flat = self
            .routes
            .iter()
            .map(|(_, view)| ours[view].f_flatten(0, -1));
        let flat = Tensor::f_cat(&flat.collect::<Result<Vec<_>, _>>()?, 0)?;
        // As bytes: not every backend knows every kind.
        Ok(flat.f_view_dtype(Kind::Uint8)?)
    }

    /// Bytes to each rank, and from each. `n_rows`: by rank, by view.
    fn sizes(
        &self,
        ours: &BTreeMap<View, Tensor>,
        n_rows: &[Vec<i64>],
    ) -> (Vec<usize>, Vec<usize>) {
        let this_rank = self.ranks.rank();
        let (mut to, mut from) = (vec![0; n_rows.len()], vec![0; n_rows.len()]);
        for (view_idx, (view, rows)) in ours.iter().enumerate() {
            let row_bytes = rows.size()[1] as usize * rows.kind().elt_size_in_bytes();
            for (rank, taken) in to.iter_mut().enumerate() {
                if self.routes.contains(&(rank, view.clone())) {
                    *taken += n_rows[this_rank][view_idx] as usize * row_bytes;
                }
            }
            if self.routes.contains(&(this_rank, view.clone())) {
                for (given, n_rows) in from.iter_mut().zip(n_rows) {
                    *given += n_rows[view_idx] as usize * row_bytes;
                }
            }
        }
        (to, from)
    }

    /// The rows of each view that this rank takes, from those of all ranks one behind the other.
    fn unpacked(
        &self,
        flat: &Tensor,
        ours: &BTreeMap<View, Tensor>,
        n_rows: &[Vec<i64>],
    ) -> Result<Received, TrainError> {
        let this_rank = self.ranks.rank();
        let mut start = 0;
        let mut parts: BTreeMap<&View, Vec<Tensor>> = BTreeMap::new();
        for n_rows in n_rows {
            for ((view, rows), &n) in ours.iter().zip(n_rows) {
                if self.routes.contains(&(this_rank, view.clone())) {
                    let width = rows.size()[1];
                    let part = flat.f_narrow(0, start, n * width)?.f_view([n, width])?;
                    parts.entry(view).or_default().push(part);
                    start += n * width;
                }
            }
        }
        let whole = parts
            .into_iter()
            .map(|(view, parts)| Ok((view.clone(), Tensor::f_cat(&parts, 0)?)));
        Ok(Received(whole.collect::<Result<_, TrainError>>()?))
    }
}
