//! What the fake device has written down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// How many callers of an event are shown.
const MOST_CALLERS: usize = 5;

/// A log.
#[derive(Debug)]
pub(super) struct Log {
    /// Names of the operators that were called.
    pub(super) operators: BTreeSet<String>,
    pub(super) events: Vec<Event>,
}

/// Something that happened on the device.
#[derive(Debug)]
pub(super) struct Event {
    /// Such as `wait`.
    pub(super) kind: String,
    /// Such as `copy to the host`.
    pub(super) what: String,
    /// The functions of the project's crates that led to it, innermost first, each as `lm/src/model.rs forward`.
    /// There are no callers in a thread of libtorch, which computes gradients.
    pub(super) callers: Vec<String>,
}

impl Log {
    /// Reads a log. Callers are looked for where `program` is given, which has written it: that takes a second.
    #[track_caller]
    pub(super) fn read(path: &Path, program: Option<&Path>) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut log = Self {
            operators: BTreeSet::new(),
            events: Vec::new(),
        };
        let mut events = Vec::new();
        for line in text.lines() {
            match line.split('\t').collect::<Vec<_>>()[..] {
                ["op", name, _] => {
                    log.operators.insert(name.to_owned());
                }
                [kind, what, addresses] => events.push((kind, what, addresses)),
                _ => panic!("`{line}` in {}", path.display()),
            }
        }
        let all = events
            .iter()
            .flat_map(|(.., addresses)| addresses.split(' '));
        let all = all.filter(|address| !address.is_empty()).collect();
        let functions = program
            .map(|program| functions(program, all))
            .unwrap_or_default();
        log.events = events
            .into_iter()
            .map(|(kind, what, addresses)| Event {
                kind: kind.to_owned(),
                what: what.to_owned(),
                callers: addresses
                    .split(' ')
                    .flat_map(|address| functions.get(address).cloned().unwrap_or_default())
                    .collect(),
            })
            .collect();
        assert!(
            !log.operators.is_empty(),
            "nothing was computed on the fake device: no operator in {}",
            path.display()
        );
        log
    }

    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.kind == kind)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            what,
            callers,
        } = self;
        let mut callers = callers.clone();
        callers.dedup();
        callers.truncate(MOST_CALLERS);
        write!(f, "{kind}: {what}, in {}", callers.join(" < "))
    }
}

/// The functions of the project at each address: several where one is inlined into another, innermost first.
fn functions(program: &Path, addresses: BTreeSet<&str>) -> BTreeMap<String, Vec<String>> {
    let mut sources = Sources::default();
    let mut functions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut given = addresses.iter();
    // Each answer begins with a line of the address, in other digits than ours.
    for line in addr2line(program, &addresses).lines() {
        if line.starts_with("0x") {
            let address = given.next().expect("an answer for each address");
            functions.insert((*address).to_owned(), Vec::new());
        } else if let Some(function) = sources.function_at(line) {
            let mut last = functions.last_entry().expect("after its address");
            last.get_mut().push(function);
        }
    }
    assert!(given.next().is_none(), "`addr2line` left an address out");
    functions
}

/// What `addr2line` says of addresses in a program.
fn addr2line(program: &Path, addresses: &BTreeSet<&str>) -> String {
    let mut child = Command::new("addr2line")
        .args(["--addresses", "--inlines", "--exe"])
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`addr2line` of the binutils, which a compiler needs");
    let lines = addresses.iter().map(|address| format!("{address}\n"));
    let input: String = lines.collect();
    let mut stdin = child.stdin.take().unwrap();
    // Meanwhile it answers.
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Files of the project's crates, by their path within `runner/`: its lines, none if there is no such file.
#[derive(Default)]
struct Sources(BTreeMap<String, Vec<String>>);

impl Sources {
    /// The function with a line that is named as `FILE:LINE`. Names in a program are those of where code was
    /// inlined; names in the source are the same with any compiler.
    fn function_at(&mut self, place: &str) -> Option<String> {
        let (_, place) = place.rsplit_once("runner/")?;
        let (file, line) = place.split_once(':')?;
        let line: String = line.chars().take_while(char::is_ascii_digit).collect();
        let lines = self.0.entry(file.to_owned()).or_insert_with(|| {
            let text = fs::read_to_string(in_runner(file)).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        });
        let until = lines.get(..line.parse().ok()?)?;
        let name = until.iter().rev().find_map(|line| name_of_function(line))?;
        Some(format!("{file} {name}"))
    }
}

fn in_runner(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("runner")
        .join(file)
}

/// The name of the function that begins in a line of Rust.
fn name_of_function(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let is_word = |it: char| it.is_alphanumeric() || it == '_';
    let begins = before.is_empty() || before.ends_with(' ');
    let name = after.split(|it| !is_word(it)).next()?;
    (begins && !before.contains("//") && !name.is_empty()).then_some(name)
}

#[test]
fn a_line_names_the_function_that_begins_in_it() {
    for line in [
        "fn name(",
        "    pub(crate) fn name<T>(x: T) -> Option<fn(T)> {",
        "unsafe extern \"C\" fn name() {}",
    ] {
        assert_eq!(name_of_function(line), Some("name"), "{line}");
    }
    for line in [
        "let f: fn(u8) = g;",
        "// As fn name does.",
        "f(&Fn name)",
        "",
    ] {
        assert_eq!(name_of_function(line), None, "{line}");
    }
}
