//! What can go wrong between processes.

use fault::Fault;
use miette::Diagnostic;
use plan::StoreAddress;
use thiserror::Error;

/// What can go wrong between processes: a separate type, since a rank need not report it to the others.
#[derive(Debug, Diagnostic, Error)]
#[diagnostic(transparent)]
#[error(transparent)]
pub struct DistError(#[from] Fault);

impl From<DistError> for Fault {
    fn from(error: DistError) -> Self {
        error.0
    }
}

impl From<tch::TchError> for DistError {
    fn from(error: tch::TchError) -> Self {
        Fault::internal("libtorch failed").because(error).into()
    }
}

/// What to do about a process that is gone.
pub(crate) const LOST: &str =
    "was it killed, perhaps because memory ran out? See the log of that rank and of its node";

/// The process that held the store is gone. `during`: what this rank was doing.
pub(crate) fn store_lost(address: &StoreAddress, during: &str, reason: &str) -> DistError {
    let message = format!("the store at `{address}` was lost during {during}: {reason}");
    Fault::internal(message).with_hint(LOST).into()
}

/// Ranks that made other calls, or with other tensors.
pub(crate) fn of_the_program(message: String) -> DistError {
    let fault = Fault::internal(message);
    fault
        .with_hint("this is an error of the program: please report it")
        .into()
}

/// `rank 1`, or `ranks 1, 2 and 5`.
pub(crate) fn named(ranks: &[usize]) -> String {
    match ranks {
        [] => "a rank".to_owned(),
        [rank] => format!("rank {rank}"),
        [ranks @ .., last] => {
            let ranks: Vec<_> = ranks.iter().map(usize::to_string).collect();
            format!("ranks {} and {last}", ranks.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_named_as_people_do() {
        assert_eq!(named(&[3]), "rank 3");
        assert_eq!(named(&[1, 2]), "ranks 1 and 2");
        assert_eq!(named(&[1, 2, 5]), "ranks 1, 2 and 5");
    }
}
