//! Files of events with all kinds of damage: what can be read is read, and the rest is put aside.

use super::*;
use crate::run::orphan::lock_stream;
use plan::EventKind;
use proptest::prelude::*;
use std::path::Path;
use tempfile::{TempDir, tempdir};

/// A line of attempt 1.
fn line(seq: u64) -> Vec<u8> {
    let event = Event {
        seq,
        time_ms: 1,
        attempt: 1,
        kind: EventKind::Finished,
    };
    let mut line = serde_json::to_vec(&event).unwrap();
    line.push(b'\n');
    line
}

fn lines(seqs: impl IntoIterator<Item = u64>) -> Vec<u8> {
    seqs.into_iter().flat_map(line).collect()
}

/// A folder with `events.jsonl`.
fn folder(content: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    fs::write(&path, content).unwrap();
    (dir, path)
}

/// What a reader makes of a file that no one writes to any more.
struct Outcome {
    seqs: Vec<u64>,
    kept: Vec<u8>,
    aside: Vec<u8>,
    note: Option<String>,
}

fn end(tail: &mut EventTail) -> Outcome {
    let mut seqs = Vec::new();
    while let Some(events) = tail.read_next().unwrap() {
        seqs.extend(events.iter().map(|event| event.seq));
    }
    seqs.extend(tail.settle().iter().map(|line| line.event.seq));
    let note = tail.unreadable.put_aside().unwrap();
    Outcome {
        seqs,
        kept: fs::read(&tail.path).unwrap(),
        aside: fs::read(aside(&tail.path, 1)).unwrap_or_default(),
        note,
    }
}

fn aside(path: &Path, n: u32) -> PathBuf {
    path.with_file_name(format!("events.jsonl.unreadable-{n}"))
}

fn read(content: &[u8]) -> Outcome {
    let (_dir, path) = folder(content);
    end(&mut EventTail::new(path))
}

#[test]
fn a_good_file_is_left_as_it_is() {
    for content in [lines([]), lines(1..=5), lines(40..=45), lines([7])] {
        let outcome = read(&content);
        assert_eq!(lines(outcome.seqs), content);
        assert_eq!(outcome.kept, content);
        assert!(outcome.note.is_none() && outcome.aside.is_empty());
    }
}

#[test]
fn a_bad_line_costs_no_other() {
    let long = vec![b'x'; 3 * BATCH_BYTES as usize + 17];
    let wrong = [
        &b"garbage"[..],
        b"\xff\xfe",
        b"\0\0\0\0",
        b"[]",
        b"{\"seq\":4}",
        b"{\"seq\":4,\"time_ms\":1,\"attempt\":1,\"event\":\"of_the_future\"}",
        b"{\"seq\":999999,\"time_ms\":1,\"attempt\":1,\"event\":\"finished\"}",
        b"{\"seq\":1,\"time_ms\":1,\"attempt\":1,\"event\":\"finished\"}",
        b"{\"seq\":281474976710656,\"time_ms\":1,\"attempt\":1,\"event\":\"finished\"}",
        &long,
    ];
    for bad in wrong {
        let bad = [bad, b"\n"].concat();
        // A copy directly after its line says nothing wrong.
        let begin = if bad == line(1) { 2 } else { 0 };
        for at in begin..8 {
            let content = [lines(1..=at), bad.clone(), lines(at + 1..=8)].concat();
            let outcome = read(&content);
            assert_eq!(
                outcome.seqs,
                (1..=8).collect::<Vec<_>>(),
                "{bad:.60?} at {at}"
            );
            assert_eq!(outcome.kept, lines(1..=8));
            assert_eq!(outcome.aside, bad);
            let note = outcome.note.unwrap();
            let of = format!("1 line cannot be read, from line {} on", at + 1);
            assert!(note.contains(&of), "{note}");
            assert!(note.contains("events.jsonl.unreadable-1"), "{note}");
        }
        // In place of a line, that one is lost.
        let content = [lines(1..=3), bad.clone(), lines(5..=8)].concat();
        assert_eq!(read(&content).seqs, [1, 2, 3, 5, 6, 7, 8]);
    }
}

#[test]
fn half_a_line_waits_and_a_cut_file_is_read_anew() {
    let (_dir, path) = folder(&lines(1..=2));
    let mut tail = EventTail::new(path.clone());
    let mut next = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        let events = tail.read_next().unwrap();
        events.map(|events| events.iter().map(|event| event.seq).collect::<Vec<_>>())
    };
    let whole = lines(1..=3);
    assert_eq!(next(&lines(1..=2)), Some(vec![1, 2]));
    assert_eq!(next(&whole[..whole.len() - 1]), None);
    assert_eq!(
        next(&[&whole[..whole.len() - 5], &[0; 4000]].concat()),
        None
    );
    assert_eq!(next(&whole), Some(vec![3]));
    assert_eq!(next(&lines([1])), Some(vec![1]));
    assert!(end(&mut tail).note.is_none());
}

#[test]
fn half_a_line_that_is_too_long_is_put_aside() {
    for n_bytes in [MAX_EVENT_BYTES + 1, BATCH_BYTES as usize * 2] {
        let half = vec![b'x'; n_bytes];
        let outcome = read(&[lines(1..=2), half.clone()].concat());
        assert_eq!(outcome.seqs, [1, 2]);
        assert!(outcome.aside == half && outcome.kept == lines(1..=2));
        // What a power cut leaves is the next worker's to drop.
        let content = [lines(1..=2), b"{\"seq\"".to_vec(), vec![0; n_bytes]].concat();
        let outcome = read(&content);
        assert_eq!(outcome.seqs, [1, 2]);
        assert!(outcome.note.is_none() && outcome.kept == content);
    }
}

#[test]
fn nothing_that_was_put_aside_is_overwritten() {
    let (_dir, path) = folder(b"first\n");
    assert!(end(&mut EventTail::new(path.clone())).note.is_some());
    fs::write(&path, "second\n").unwrap();
    let note = end(&mut EventTail::new(path.clone())).note.unwrap();
    assert!(note.contains("events.jsonl.unreadable-2"), "{note}");
    assert_eq!(fs::read(aside(&path, 1)).unwrap(), b"first\n");
    assert_eq!(fs::read(aside(&path, 2)).unwrap(), b"second\n");
}

#[test]
fn a_line_of_an_attempt_that_was_never_begun_is_not_taken() {
    let (_dir, path) = folder(&lines(1..=2));
    let outcome = end(&mut EventTail::new(path).up_to_attempt(0));
    assert!(outcome.seqs.is_empty());
    assert!(outcome.note.unwrap().contains("never begun"));
}

#[test]
fn what_is_not_a_file_is_moved_away() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    fs::create_dir(&path).unwrap();
    let mut tail = EventTail::new(path.clone());
    assert!(tail.read_next().unwrap().is_none());
    assert!(
        tail.unreadable
            .put_aside()
            .unwrap()
            .unwrap()
            .contains("not a file")
    );
    assert!(!path.exists() && aside(&path, 1).is_dir());
}

#[test]
fn while_a_worker_writes_nothing_is_moved() {
    let (dir, path) = folder(b"garbage\n");
    let lock = lock_stream(dir.path()).unwrap().unwrap();
    assert!(end(&mut EventTail::new(path.clone())).note.is_none());
    assert_eq!(fs::read(&path).unwrap(), b"garbage\n");
    drop(lock);
    assert!(end(&mut EventTail::new(path)).note.is_some());
}

#[test]
fn countless_bad_lines_take_no_memory() {
    let pair = [&b"x\n"[..], b"\n"].concat();
    let content = [lines(1..=2), pair.repeat(50_000), lines(3..=4)].concat();
    let outcome = read(&content);
    assert_eq!(outcome.seqs, [1, 2]);
    assert!(outcome.note.unwrap().contains("and all after them"));
    assert_eq!(outcome.kept.len() + outcome.aside.len(), content.len());
    assert!(outcome.aside.ends_with(&line(4)));
}

proptest! {
    #[test]
    fn any_bytes_are_read_and_none_is_lost(
        begin in 0_u64..4,
        parts in prop::collection::vec(
            prop_oneof![
                any::<Vec<u8>>(),
                (1_u64..12).prop_map(line),
                any::<u64>().prop_map(line),
                Just(vec![b'\n']),
                Just(vec![0; 9]),
            ],
            0..12,
        ),
    ) {
        let content = [lines(1..=begin), parts.concat()].concat();
        let outcome = read(&content);
        prop_assert!(outcome.seqs.starts_with(&(1..=begin).collect::<Vec<_>>()));
        prop_assert_eq!(outcome.note.is_none(), outcome.aside.is_empty());
        let sorted = |mut bytes: Vec<u8>| {
            bytes.sort_unstable();
            bytes
        };
        prop_assert_eq!(sorted([outcome.kept, outcome.aside].concat()), sorted(content));
    }
}
