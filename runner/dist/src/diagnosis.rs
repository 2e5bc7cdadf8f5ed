//! Who is at fault when a collective fails: ranks say in the store where they were, and a rank that
//! says nothing is gone or stalled.

use crate::error::{LOST, named, of_the_program, store_lost};
use crate::member::Member;
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

/// The key that any rank in trouble sets, to [`TIMED_OUT`] or to nothing.
const TROUBLE: &str = "trouble";
const TIMED_OUT: &[u8] = b"timed out";

/// What a rank knows of the others.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) member: Member,
    pub(crate) store: Rc<Store>,
}

/// A collective.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Collective {
    /// The group's first collective is 1.
    pub(crate) number: u64,
    pub(crate) what: String,
    #[serde(skip)]
    pub(crate) timeout: Duration,
}

/// What a rank says before it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Notice {
    /// A collective failed.
    Stuck(Collective),
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
        let notice = Notice::Failed {
            message: message.into(),
            is_of_the_input,
        };
        self.say(&notice, FailureKind::Other)
    }

    /// What a rank that waits hears if another has said that it is in trouble.
    pub(crate) fn trouble(&self) -> Option<Failure> {
        let kind = match self.store.has(TROUBLE) {
            Ok(false) => return None,
            Ok(true) => self.store.raw().get(TROUBLE, PATIENCE),
            Err(_) => Ok(vec![]),
        };
        let kind = match kind.as_deref() {
            Ok(TIMED_OUT) => FailureKind::Timeout,
            _ => FailureKind::Other,
        };
        let text = "another rank gave up".into();
        Some(Failure { kind, text })
    }

    /// Gives the others time to read what was said.
    pub(crate) fn wait_for_others(&self) -> Result<(), DistError> {
        self.notices().map(|_| ())
    }

    /// The error that explains `failure` of a collective.
    pub(crate) fn explain(&self, collective: &Collective, failure: Failure) -> DistError {
        let Ok(notices) = self
            .say(&Notice::Stuck(collective.clone()), failure.kind)
            .and_then(|()| self.notices())
        else {
            return store_lost(self.store.address(), &collective.what, &failure.text);
        };
        self.judge(collective, failure, &notices)
    }

    fn judge(
        &self,
        collective: &Collective,
        failure: Failure,
        notices: &[Option<Notice>],
    ) -> DistError {
        for (rank, notice) in notices.iter().enumerate() {
            if let Some(Notice::Failed {
                message,
                is_of_the_input,
            }) = notice
                && rank != self.member.rank
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
        for (rank, notice) in notices.iter().enumerate() {
            if let Some(Notice::Stuck(theirs)) = notice
                && failure.kind == FailureKind::Timeout
                && theirs.what != collective.what
            {
                let (theirs, ours) = (&theirs.what, &collective.what);
                let message = format!(
                    "rank {rank} is in {theirs}, rank {} in {ours}",
                    self.member.rank
                );
                return of_the_program(message);
            }
        }
        let silent = notices
            .iter()
            .enumerate()
            .filter(|(_, notice)| notice.is_none());
        let ranks: Vec<usize> = silent.map(|(rank, _)| rank).collect();
        let (what, reason) = (&collective.what, failure.text);
        let who = named(&ranks);
        match failure.kind {
            _ if ranks.is_empty() => Fault::internal(format!("{what} failed: {reason}")),
            FailureKind::Timeout => {
                let timeout = collective.timeout.as_secs();
                let message = format!("{who} did not arrive at {what} within {timeout} s");
                Fault::internal(message).with_hint(
                    "see the log of that rank; if it only needs longer, raise `timeout_minutes`",
                )
            }
            _ => Fault::internal(format!("lost {who} in {what}: {reason}")).with_hint(LOST),
        }
        .into()
    }

    fn say(&self, notice: &Notice, kind: FailureKind) -> Result<(), DistError> {
        let text = serde_json::to_vec(notice).expect("plain fields serialise to JSON");
        self.store.set(&key(self.member.rank), &text)?;
        let kind = match kind {
            FailureKind::Timeout => TIMED_OUT,
            _ => b"",
        };
        self.store.set(TROUBLE, kind)
    }

    /// What each rank said, this one included; waits for those that said nothing yet.
    fn notices(&self) -> Result<Vec<Option<Notice>>, DistError> {
        let until = Instant::now() + PATIENCE;
        let mut notices: Vec<Option<Notice>> = vec![None; self.member.world_size];
        loop {
            let heard = self.hear(&mut notices);
            let others = notices
                .iter()
                .enumerate()
                .filter(|(rank, _)| *rank != self.member.rank);
            let others: Vec<_> = others.filter_map(|(_, notice)| notice.as_ref()).collect();
            match heard {
                // Who keeps the store may be done with waiting; its own notice is here then.
                Err(error) if others.is_empty() => return Err(error),
                Err(_) => return Ok(notices),
                Ok(()) => {}
            }
            if others.into_iter().any(Notice::is_failure)
                || notices.iter().all(Option::is_some)
                || Instant::now() > until
            {
                return Ok(notices);
            }
            sleep(PAUSE);
        }
    }

    /// Reads what ranks have said since.
    fn hear(&self, notices: &mut [Option<Notice>]) -> Result<(), DistError> {
        for (rank, notice) in notices.iter_mut().enumerate() {
            if notice.is_none() && self.store.has(&key(rank))? {
                let text = self.store.get(&key(rank), PATIENCE)?;
                *notice = text.and_then(|text| Notice::read(&text));
            }
        }
        Ok(())
    }
}

impl Notice {
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
        fn any_bytes_of_a_rank_are_a_notice_or_none(text in any_bytes(vec![
            br#"{"Stuck":{"number":7,"what":"all_reduce of sums"}}"#.to_vec(),
            br#"{"Failed":{"message":"no \u001b[2J space","is_of_the_input":false}}"#.to_vec(),
        ])) {
            if let Some(notice) = Notice::read(&text) {
                let again = serde_json::to_vec(&notice).unwrap();
                prop_assert_eq!(Notice::read(&again), Some(notice));
            }
        }
    }
}
