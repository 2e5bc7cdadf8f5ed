//! Who is at fault when a collective fails: ranks say in the store where they were, and a rank that
//! says nothing is gone or stalled.

use crate::error::{LOST, named, of_the_program, store_lost};
use crate::plugin::{Failure, FailureKind};
use crate::{DistError, Store};
use fault::Fault;
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long ranks that are in trouble too have to say so.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// What a rank knows of the others.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    pub(crate) store: Rc<Store>,
}

/// A collective.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The group's first collective is 1.
    pub(crate) number: u64,
    pub(crate) what: String,
    #[serde(skip)]
    pub(crate) timeout: Duration,
}

/// What a rank says before it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Word {
    /// A collective failed.
    Stuck(Place),
    /// Something else failed, and only this rank knows.
    Failed {
        message: String,
        is_of_the_input: bool,
    },
}

impl Peers {
    /// Tells the others why this rank ends.
    pub(crate) fn tell_failure(
        &self,
        message: &str,
        is_of_the_input: bool,
    ) -> Result<(), DistError> {
        self.say(&Word::Failed {
            message: message.into(),
            is_of_the_input,
        })
    }

    /// Gives the others time to read what was said.
    pub(crate) fn wait_for_others(&self) -> Result<(), DistError> {
        self.words().map(|_| ())
    }

    /// The error that explains `failure` of a collective.
    pub(crate) fn explain(&self, place: &Place, failure: Failure) -> DistError {
        let Ok(words) = self
            .say(&Word::Stuck(place.clone()))
            .and_then(|()| self.words())
        else {
            return store_lost(self.store.address(), &place.what, &failure.text);
        };
        self.judge(place, failure, &words)
    }

    fn judge(&self, place: &Place, failure: Failure, words: &[Option<Word>]) -> DistError {
        for (rank, word) in words.iter().enumerate() {
            if let Some(Word::Failed {
                message,
                is_of_the_input,
            }) = word
                && rank != self.rank
            {
                let message = format!("rank {rank} failed: {message}");
                return if *is_of_the_input {
                    Fault::input(message)
                } else {
                    Fault::internal(message)
                }
                .into();
            }
        }
        for (rank, word) in words.iter().enumerate() {
            if let Some(Word::Stuck(theirs)) = word
                && failure.kind == FailureKind::Timeout
                && theirs.what != place.what
            {
                let (theirs, ours) = (&theirs.what, &place.what);
                let message = format!("rank {rank} is in {theirs}, rank {} in {ours}", self.rank);
                return of_the_program(message);
            }
        }
        let silent = words.iter().enumerate().filter(|(_, word)| word.is_none());
        let ranks: Vec<usize> = silent.map(|(rank, _)| rank).collect();
        let (collective, reason) = (&place.what, failure.text);
        let who = named(&ranks);
        match failure.kind {
            _ if ranks.is_empty() => Fault::internal(format!("{collective} failed: {reason}")),
            FailureKind::Timeout => {
                let timeout = place.timeout.as_secs();
                let message = format!("{who} did not arrive at {collective} within {timeout} s");
                Fault::internal(message).with_hint(
                    "see the log of that rank; where it only needs longer, raise `timeout_minutes`",
                )
            }
            _ => Fault::internal(format!("lost {who} in {collective}: {reason}")).with_hint(LOST),
        }
        .into()
    }

    fn say(&self, word: &Word) -> Result<(), DistError> {
        let text = serde_json::to_vec(word).expect("plain fields serialise to JSON");
        self.store.set(&key(self.rank), &text)
    }

    /// What each rank said, this one included; waits for those that said nothing yet.
    fn words(&self) -> Result<Vec<Option<Word>>, DistError> {
        let until = Instant::now() + PATIENCE;
        let mut words: Vec<Option<Word>> = vec![None; self.world_size];
        loop {
            let heard = self.hear(&mut words);
            let others = words
                .iter()
                .enumerate()
                .filter(|(rank, _)| *rank != self.rank);
            let others: Vec<_> = others.filter_map(|(_, word)| word.as_ref()).collect();
            match heard {
                // Who keeps the store may be done with waiting; its own word is then here.
                Err(error) if others.is_empty() => return Err(error),
                Err(_) => return Ok(words),
                Ok(()) => {}
            }
            if others.into_iter().any(Word::is_failure)
                || words.iter().all(Option::is_some)
                || Instant::now() > until
            {
                return Ok(words);
            }
            sleep(PAUSE);
        }
    }

    /// Reads what ranks have said since.
    fn hear(&self, words: &mut [Option<Word>]) -> Result<(), DistError> {
        for (rank, word) in words.iter_mut().enumerate() {
            if word.is_none() && self.store.has(&key(rank))? {
                let text = self.store.get(&key(rank), PATIENCE)?;
                *word = text.and_then(|text| Word::read(&text));
            }
        }
        Ok(())
    }
}

impl Word {
    /// What a rank said; `None`: it cannot be read.
    fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    fn is_failure(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

fn key(rank: usize) -> String {
    format!("word/{rank}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use files::testing::any_bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_of_a_rank_are_a_word_or_none(text in any_bytes(vec![
            br#"{"Stuck":{"number":7,"what":"all_reduce of sums"}}"#.to_vec(),
            br#"{"Failed":{"message":"no \u001b[2J space","is_of_the_input":false}}"#.to_vec(),
        ])) {
            if let Some(word) = Word::read(&text) {
                let again = serde_json::to_vec(&word).unwrap();
                prop_assert_eq!(Word::read(&again), Some(word));
            }
        }
    }
}
