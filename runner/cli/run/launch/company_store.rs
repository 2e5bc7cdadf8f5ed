//! c10d's store, through which the ranks of a launcher find each other: a worker program holds it for us.

use crate::error::CliError;
use crate::run::launch::ALONE;
use crate::run::worker_program::TaskProcess;
use plan::{Environment, StoreRequest, StoreTask, Task};
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::fmt::Display;
use std::io::Write;
use std::process::ChildStdin;
use std::time::Duration;

/// A store of keys and values that all ranks share.
pub(super) struct CompanyStore {
    process: RefCell<(TaskProcess, ChildStdin)>,
}

impl CompanyStore {
    /// Connects to the launcher's store, or to that of rank 0, which serves it for the life of what is returned.
    /// Keys begin with `prefix`.
    ///
    /// # Errors
    /// A port that is in use, or no server within about twice the time.
    pub(super) fn open(
        environment: &Environment,
        prefix: String,
        timeout: Duration,
    ) -> Result<Self, CliError> {
        let task = Task::Store(StoreTask {
            address: environment.store.clone(),
            is_server: environment.rank == 0 && !environment.store.is_served_by_launcher,
            prefix,
            rank: environment.rank,
            timeout_ms: timeout.as_millis() as u64,
        });
        let store = Self {
            process: RefCell::new(TaskProcess::start_apart(&task)?),
        };
        store.next::<()>()?;
        Ok(store)
    }

    /// Sets a key.
    ///
    /// # Errors
    /// The store is lost.
    pub(super) fn set(&self, key: &str, value: &str) -> Result<(), CliError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.ask(&StoreRequest::Set { key, value })
    }

    /// The value of a key, once it is there; `None` if it is not there within `timeout`.
    ///
    /// # Errors
    /// The store is lost.
    pub(super) fn get(&self, key: &str, timeout: Duration) -> Result<Option<String>, CliError> {
        self.ask(&StoreRequest::Get {
            key: key.to_owned(),
            timeout_ms: timeout.as_millis() as u64,
        })
    }

    /// Whether a key is there now.
    ///
    /// # Errors
    /// The store is lost.
    pub(super) fn has(&self, key: &str) -> Result<bool, CliError> {
        let key = key.to_owned();
        self.ask(&StoreRequest::Has { key })
    }

    fn ask<T: DeserializeOwned>(&self, request: &StoreRequest) -> Result<T, CliError> {
        let line = serde_json::to_string(request).expect("requests serialise to JSON");
        let sent = writeln!(self.process.borrow_mut().1, "{line}");
        sent.map_err(lost)?;
        self.next()
    }

    fn next<T: DeserializeOwned>(&self) -> Result<T, CliError> {
        let answer = self.process.borrow_mut().0.next(&mut |_, _| {}, ALONE)?;
        answer.ok_or_else(|| lost("it has ended"))
    }
}

fn lost(why: impl Display) -> CliError {
    CliError::of_kind(
        fault::FailureKind::Internal,
        format!("the process that holds the store of ranks is lost: {why}"),
    )
}
