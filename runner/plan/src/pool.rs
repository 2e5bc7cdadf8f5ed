//! Streams that any machine may take: the table `[launch.pool]`, and the names in the folder `.pool`.
//!
//! An entry is a stream that is offered once. It is one file, whose folder and name say where it is:
//!
//! ```text
//! waiting/ENTRY.RUNS                   no machine has it; RUNS: how often one had
//! claimed/ENTRY.RUNS.MEMBER.RENEWALS   a member has it, and renews its lease by counting up
//! ended/ENTRY.RUNS.HOW                 its worker ended so: an exit code, `killed` or `withdrawn`
//! ```

use fault::Fault;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How machines share streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Seconds without a sign of life after which a machine has lost its stream, and another continues it.
    pub lease_s: u64,
}

impl Default for Pool {
    fn default() -> Self {
        Self { lease_s: 60 }
    }
}

/// Seconds of a lease, at most: a day.
const LONGEST: u64 = 86_400;

impl Pool {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// A lease that no machine could keep, or that would never end.
    pub fn check(&self) -> Result<(), Fault> {
        if (1..=LONGEST).contains(&self.lease_s) {
            return Ok(());
        }
        let message = format!("`launch.pool.lease_s` is {}", self.lease_s);
        let hint = format!("a lease has from 1 to {LONGEST} seconds; 60 is the default");
        Err(Fault::input(message).with_hint(hint))
    }
}

/// What a member of the pool is given: the content of an entry's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolOffer {
    /// The runs folder, as all machines see it.
    pub runs_dir: std::path::PathBuf,
    /// The stream.
    pub stream_id: String,
    /// The stream's folder, relative to the runs folder.
    pub dir: String,
    /// Seconds of a lease.
    pub lease_s: u64,
}

/// Folders of the pool.
pub const POOL_FOLDERS: [&str; 4] = ["waiting", "claimed", "ended", "withdrawn"];

/// The name of an entry's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolName {
    /// The entry.
    pub entry: String,
    /// Runs of it that came to nothing, or to a part.
    pub n_runs: u32,
    /// What else the name says, in its folder.
    pub rest: Vec<String>,
}

impl PoolName {
    /// Reads a name; `None`: it is of something else.
    pub fn read(name: &str) -> Option<Self> {
        let mut parts = name.split('.').map(str::to_owned);
        let entry = parts.next().filter(|entry| !entry.is_empty())?;
        let n_runs = parts.next()?.parse().ok()?;
        Some(Self {
            entry,
            n_runs,
            rest: parts.collect(),
        })
    }

    /// That of an entry which waits after `n_runs` runs.
    pub fn waiting(entry: &str, n_runs: u32) -> String {
        format!("{entry}.{n_runs}")
    }

    /// That of an entry which `member` has just taken.
    pub fn claimed(&self, member: &str) -> String {
        format!("{}.{}.{member}.0", self.entry, self.n_runs)
    }

    /// That of an entry which has ended.
    pub fn ended(&self, how: &str) -> String {
        format!("{}.{}.{how}", self.entry, self.n_runs)
    }

    /// What a claimed entry is called after each further renewal, from now on.
    pub fn renewed(&self) -> impl Iterator<Item = Self> + '_ {
        let count = self.rest.get(1).and_then(|count| count.parse::<u64>().ok());
        let later = move |by: u64| {
            let mut name = self.clone();
            name.rest[1] = (count? + by).to_string();
            Some(name)
        };
        (0..).map_while(later)
    }

    /// The member that has it.
    pub fn member(&self) -> Option<&str> {
        self.rest.first().map(String::as_str)
    }
}

/// How a process calls itself in the names of what it takes: the machine, its number, and what tells it from a process
/// with the same number on a machine of the same name.
pub fn pool_member(host: &str, pid: u32, unique: u32) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '_'
        }
    };
    let host: String = host.chars().map(plain).take(100).collect();
    format!("{host}+{pid}+{unique:08x}")
}

/// The same for people.
pub fn described_member(member: &str) -> String {
    let mut parts = member.split('+');
    match (parts.next(), parts.next()) {
        (Some(host), Some(pid)) => format!("process {pid} on {}", host.replace('_', ".")),
        _ => "a process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_where_an_entry_is() {
        assert_eq!(PoolName::waiting("ab-12", 0), "ab-12.0");
        let waiting = PoolName::read("ab-12.3").unwrap();
        assert_eq!((waiting.n_runs, waiting.member()), (3, None));
        let member = pool_member("gpu7.lab.org", 41, 0xc0de);
        let claimed = PoolName::read(&waiting.claimed(&member)).unwrap();
        assert_eq!(claimed.rest, [member.as_str(), "0"]);
        assert_eq!(
            described_member(claimed.member().unwrap()),
            "process 41 on gpu7.lab.org"
        );
        let renewed = claimed.renewed().nth(12).unwrap();
        assert_eq!(renewed.rest, [member.as_str(), "12"]);
        assert_eq!((renewed.n_runs, waiting.renewed().next()), (3, None));
        assert_eq!(PoolName::read(&claimed.ended("0")).unwrap().rest, ["0"]);
        for other in ["", ".nfs0001", "ab-12", "ab-12.x", ".ab.1"] {
            assert_eq!(PoolName::read(other), None, "{other}");
        }
    }

    #[test]
    fn a_lease_has_a_length() {
        assert!(Pool::default().check().is_ok());
        for lease_s in [0, LONGEST + 1] {
            assert!(Pool { lease_s }.check().is_err());
        }
    }
}
