//! What ranks tell each other before anything else: that they are there, and are the same program with the
//! same work.

use crate::error::named;
use crate::member::Member;
use crate::{DistError, Store};
use fault::Fault;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What must be the same on all ranks, by what it is: digests, versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello(BTreeMap<String, String>);

impl Hello {
    /// Adds something that must be the same, such as the digest of the program.
    #[must_use]
    pub fn with(mut self, what: &str, value: &str) -> Self {
        self.0.insert(what.into(), value.into());
        self
    }

    /// Sets this rank's and compares it with those of all others.
    pub(crate) fn exchange(
        &self,
        store: &Store,
        Member { rank, world_size }: Member,
        timeout: Duration,
    ) -> Result<(), DistError> {
        let text = serde_json::to_vec(self).expect("a map of texts serialises to JSON");
        store.set(&key(rank), &text)?;
        let until = Instant::now() + timeout;
        let mut missing = Vec::new();
        for other in (0..world_size).filter(|&other| other != rank) {
            let left = until.saturating_duration_since(Instant::now());
            let whom = format!("rank {other} of {world_size} at {}", store.address());
            match store.get_of(whom, &key(other), left.max(LEAST_WAIT))? {
                Some(text) => self.compare(rank, other, &text)?,
                None => missing.push(other),
            }
        }
        if missing.is_empty() {
            Ok(())
        } else {
            let (who, timeout) = (named(&missing), timeout.as_secs());
            let message = format!("{who} of {world_size} did not join within {timeout} s");
            let fault = Fault::internal(message).with_hint(
                    "see the logs of those ranks; if they only need longer to start, raise `timeout_minutes`",
                );
            Err(fault.into())
        }
    }

    fn compare(&self, this_rank: usize, rank: usize, text: &[u8]) -> Result<(), DistError> {
        let theirs: Self = serde_json::from_slice(text).unwrap_or_default();
        let whats: Vec<_> = self.0.keys().chain(theirs.0.keys()).collect();
        let value = |hello: &Self, what: &String| hello.0.get(what).cloned();
        let different = whats
            .into_iter()
            .find(|what| self.0.get(*what) != theirs.0.get(*what));
        let Some(what) = different else {
            return Ok(());
        };
        let or_nothing = |value: Option<String>| value.unwrap_or_else(|| "nothing".into());
        let theirs = or_nothing(value(&theirs, what));
        let ours = or_nothing(value(self, what));
        let message = format!("rank {rank} has {what} `{theirs}`, rank {this_rank} has `{ours}`");
        let hint = "start the same program with the same settings and packages on every node";
        Err(Fault::input(message).with_hint(hint).into())
    }
}

/// Of a key that others may have set long ago: what a look takes.
const LEAST_WAIT: Duration = Duration::from_millis(50);

fn key(rank: usize) -> String {
    format!("hello/{rank}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use files::testing::any_bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_of_a_rank_are_the_same_or_differ(
            text in any_bytes(vec![br#"{"program": "abc", "order": "1"}"#.to_vec()]),
        ) {
            let ours = Hello::default().with("program", "abc").with("order", "1");
            let is_same = serde_json::from_slice(&text).is_ok_and(|theirs: Hello| theirs == ours);
            match ours.compare(0, 1, &text) {
                Ok(()) => prop_assert!(is_same),
                Err(error) => {
                    let message = error.to_string();
                    let is_named = message.starts_with("rank 1 has ") && message.contains("`, rank 0 has `");
                    prop_assert!(!is_same && is_named, "{}", error);
                }
            }
        }
    }
}
