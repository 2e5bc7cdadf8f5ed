//! Activations of forward passes, as SAEs take them and as their statistics are gathered.

pub(crate) mod row_sum;
pub(crate) mod views;
