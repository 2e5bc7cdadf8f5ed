//! The store of ranks for a process without libtorch: a line with the result of each line that asks.

use crate::answers::{answer, failed};
use dist::{DistError, Store};
use fault::Fault;
use plan::{Answer, StoreRequest, StoreTask};
use std::io::{self, BufRead};
use std::time::Duration;

/// Opens the store, answers `null` once that is done, and from then on each request, until standard input ends.
///
/// # Errors
/// The store cannot be reached or served.
pub(crate) fn serve(task: &StoreTask) -> Result<Answer, DistError> {
    dist::tell_waits(|text| {
        answer(&Answer::Waiting {
            message: text.to_owned(),
        });
    });
    let wait = (task.rank, Duration::from_millis(task.timeout_ms));
    let store = Store::open(&task.address, task.is_server, &task.prefix, wait)?;
    answer(&Answer::done(&()));
    for line in io::stdin().lock().lines() {
        // The process that asks is gone.
        let Ok(line) = line else { break };
        let reply = reply(&store, &line);
        answer(&reply.unwrap_or_else(|error| failed(&error)));
    }
    Ok(Answer::done(&()))
}

fn reply(store: &Store, line: &str) -> Result<Answer, DistError> {
    let request = serde_json::from_str(line).map_err(|error| {
        Fault::internal("a request to the store of ranks cannot be read").because(error)
    })?;
    Ok(match request {
        StoreRequest::Set { key, value } => Answer::done(&store.set(&key, value.as_bytes())?),
        StoreRequest::Get { key, timeout_ms } => {
            let value = store.get(&key, Duration::from_millis(timeout_ms))?;
            Answer::done(&value.map(|value| String::from_utf8_lossy(&value).into_owned()))
        }
        StoreRequest::Has { key } => Answer::done(&store.has(&key)?),
    })
}
