//! A process among those that train together.

/// Which process it is, and of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Number of the process, from 0, over all nodes.
    pub(crate) rank: usize,
    /// Processes in all.
    pub(crate) world_size: usize,
}
