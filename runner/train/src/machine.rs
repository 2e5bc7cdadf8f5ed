//! The machine, as libtorch sees it.

use lm::Libtorch;
use plan::Machine;

/// libtorch, and the machine as it sees it.
pub fn machine() -> Machine {
    let cuda = lm::init_backends().clone();
    let loaded = Libtorch::loaded();
    Machine {
        libtorch: loaded.version_text(),
        library: loaded.library,
        cuda,
        n_threads: usize::try_from(tch::get_num_threads()).unwrap_or(1),
    }
}
