//! The lists of what a run may do on the device: where it may wait, what it may add in no fixed order, which
//! operators it may use.

use super::log::{Event, Log};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// How often something happened in a run: `("report", 4)`, four reports.
pub(super) type Units<'a> = [(&'a str, usize)];

/// A line of a list.
struct Line {
    /// The runs that it is of.
    runs: Vec<String>,
    /// A function, as [`Event::callers`] has it, or `libtorch` and an operator for what no caller is known of.
    place: String,
    often: Often,
}

/// How often something may happen.
enum Often {
    /// `2 a report`.
    AtMost(usize, String),
    /// `any` and `to go`.
    Any,
}

impl Line {
    fn read(line: &str) -> Self {
        let columns: Vec<_> = line.split('|').map(str::trim).collect();
        let [runs, place, often, reason] = columns[..] else {
            panic!("expected runs | place | how often | reason, got: {line}");
        };
        assert!(!reason.is_empty(), "no reason: {line}");
        Self {
            runs: runs.split(' ').map(str::to_owned).collect(),
            place: place.to_owned(),
            often: Often::read(often),
        }
    }
}

impl Often {
    fn read(text: &str) -> Self {
        if ["any", "to go"].contains(&text) {
            return Self::Any;
        }
        let split = [" a ", " an "]
            .into_iter()
            .find_map(|article| text.split_once(article));
        let (most, unit) = split.expect("as in `2 a report`");
        Self::AtMost(most.parse().expect("a number"), unit.to_owned())
    }

    fn at_most(&self, units: &Units<'_>) -> usize {
        let Self::AtMost(most, unit) = self else {
            return usize::MAX;
        };
        let found = units.iter().find(|(name, _)| name == unit);
        let (_, count) = found.unwrap_or_else(|| panic!("this run has no `{unit}`"));
        most * count
    }
}

/// The lines of a list, without comments.
fn lines(list: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_cuda");
    let text = fs::read_to_string(folder.join(list)).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// Compares a run's log with all lists.
#[track_caller]
pub(super) fn check(run: &str, log: &Log, units: &Units<'_>) {
    check_devices_and_operators(log);
    let mut found = faults(run, &waits(), log.of_kind("wait"), units);
    found.extend(faults(run, &orders(), log.of_kind("order"), units));
    assert!(found.is_empty(), "run `{run}`:\n{}", found.join("\n"));
}

/// Compares a log with what is so in every run: one device, and operators that the real CUDA has.
#[track_caller]
pub(super) fn check_devices_and_operators(log: &Log) {
    // Numbers on the CPU among them: each costs a check of its device, and hides a mistake.
    for kind in ["mismatch", "scalar", "fault", "race"] {
        let events: Vec<_> = log.of_kind(kind).map(Event::to_string).collect();
        assert!(events.is_empty(), "{}", events.join("\n"));
    }
    let known: BTreeSet<String> = lines("operators.txt").into_iter().collect();
    let unknown: Vec<_> = log.operators.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "operators without a kernel for CUDA: {unknown:?}; if libtorch has a new version, tests/fake_cuda/operators.py \
         makes the list again"
    );
}

/// The name of a list, and its lines.
type List = (&'static str, Vec<Line>);

fn waits() -> List {
    list("waits.txt")
}

fn orders() -> List {
    list("orders.txt")
}

fn list(name: &'static str) -> List {
    (
        name,
        lines(name).iter().map(|line| Line::read(line)).collect(),
    )
}

/// How the events of a run differ from a list.
fn faults<'a>(
    run: &str,
    (list, lines): &List,
    events: impl Iterator<Item = &'a Event>,
    units: &Units<'_>,
) -> Vec<String> {
    let lines: Vec<_> = lines
        .iter()
        .filter(|line| line.runs.iter().any(|it| it == run))
        .collect();
    let mut counts = vec![0; lines.len()];
    let mut faults = BTreeSet::new();
    for event in events {
        match line_of(event, &lines) {
            Some(index) => counts[index] += 1,
            None => {
                faults.insert(format!("not in {list}: {event}"));
            }
        }
    }
    for (line, count) in lines.into_iter().zip(counts) {
        let (place, most) = (&line.place, line.often.at_most(units));
        if count == 0 {
            faults.insert(format!(
                "no more at `{place}`: take its line out of {list}, or `{run}` out of the line"
            ));
        } else if count > most {
            faults.insert(format!(
                "{count} times at `{place}`, at most {most} by {list}"
            ));
        }
    }
    faults.into_iter().collect()
}

/// The line for an event: of its innermost caller that a line names.
fn line_of(event: &Event, lines: &[&Line]) -> Option<usize> {
    let index_of = |place: &str| lines.iter().position(|line| line.place == place);
    match event.callers.iter().find_map(|caller| index_of(caller)) {
        None if event.callers.is_empty() => index_of(&format!("libtorch {}", event.what)),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(callers: &[&str]) -> Event {
        Event {
            kind: "wait".into(),
            what: "copy to the host".into(),
            callers: callers.iter().copied().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn what_is_not_listed_too_frequent_or_gone_is_a_fault() {
        let lines = [
            "a b | x.rs f | 2 a report | why",
            "a | y.rs g | to go | why",
            "b | z.rs h | any | why",
        ];
        let list: List = ("a list", lines.map(Line::read).into());
        let found = |events: &[Event]| faults("a", &list, events.iter(), &[("report", 1)]);
        let (f, g) = (["u.rs v", "x.rs f"], ["y.rs g", "x.rs f"]);
        assert_eq!(found(&[wait(&f), wait(&f), wait(&g)]), [""; 0]);
        assert_eq!(found(&[wait(&f), wait(&f), wait(&f), wait(&g)]).len(), 1);
        let gone = found(&[wait(&f)]);
        assert!(gone.len() == 1 && gone[0].contains("y.rs g"), "{gone:?}");
        // That of another run does not count, nor does what has no caller.
        assert_eq!(
            found(&[wait(&f), wait(&g), wait(&["z.rs h"]), wait(&[])]).len(),
            2
        );
    }
}
