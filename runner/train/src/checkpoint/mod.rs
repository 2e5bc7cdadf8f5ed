//! What checkpoints keep besides the newest SAEs: the state that a resume needs, and the best SAEs so far.

pub(crate) mod best;
pub(crate) mod state;
