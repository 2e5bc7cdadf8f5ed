//! All entries of the pool at once, looked for now and then.

use crate::error::CliError;
use crate::pool::folder::{Place, PoolFolder};
use crate::pool::lapses::Lapses;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// How long an entry may be nowhere: a folder of the network may be listed from an old copy for a minute.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same in a folder of this machine.
const PATIENCE_HERE: Duration = Duration::from_secs(2);

/// What is known of a pool.
#[derive(Debug)]
pub(crate) struct PoolBoard {
    pub(crate) folder: PoolFolder,
    patience: Duration,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    looked: Option<Instant>,
    places: HashMap<String, Place>,
    lapses: Lapses,
}

impl PoolBoard {
    /// That of the runs folder `runs_dir`.
    pub(crate) fn new(runs_dir: &Path) -> Self {
        let is_of_network = store::is_of_network(runs_dir);
        Self {
            folder: PoolFolder::of(runs_dir),
            patience: if is_of_network {
                PATIENCE
            } else {
                PATIENCE_HERE
            },
            state: RefCell::default(),
        }
    }

    /// How long an entry may be nowhere before it is taken for gone.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Where an entry was at the last look.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub(crate) fn place(&self, entry: &str) -> Result<Option<Place>, CliError> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.looked.is_none_or(|looked| looked.elapsed() > PAUSE) {
            state.lapses.put_back_and_tell(&self.folder)?;
            state.places = self.folder.places()?;
            state.looked = Some(Instant::now());
        }
        Ok(state.places.get(entry).cloned())
    }
}
