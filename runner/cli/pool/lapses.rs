//! Leases that were not renewed, by the clock of who looks.

use crate::error::CliError;
use crate::pool::folder::PoolFolder;
use crate::show::table;
use plan::{PoolName, described_member};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The leases that were seen.
#[derive(Debug, Default)]
pub(crate) struct Lapses {
    seen: HashMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    name: PoolName,
    since: Instant,
    lease: Duration,
}

impl Lapses {
    /// Puts back what members have not renewed for the length of their leases; gives what to tell of that.
    ///
    /// # Errors
    /// A folder that cannot be read or written.
    pub(crate) fn put_back(&mut self, folder: &PoolFolder) -> Result<Vec<String>, CliError> {
        let mut told = Vec::new();
        let claimed = folder.list("claimed")?;
        let is_there = |entry: &String| claimed.iter().any(|name| name.entry == *entry);
        self.seen.retain(|entry, _| is_there(entry));
        for name in claimed {
            match self.seen.get(&name.entry) {
                Some(seen) if seen.name == name => {
                    if seen.since.elapsed() > seen.lease && folder.put_back(&name)? {
                        let member = described_member(name.member().unwrap_or_default());
                        let seconds = seen.lease.as_secs();
                        told.push(format!("nothing was heard of {member} for {seconds} s; another may continue its stream"));
                    }
                }
                _ => self.see(folder, name),
            }
        }
        Ok(told)
    }

    /// The same, and tells the user.
    ///
    /// # Errors
    /// As [`Lapses::put_back`].
    pub(crate) fn put_back_and_tell(&mut self, folder: &PoolFolder) -> Result<(), CliError> {
        for lapse in self.put_back(folder)? {
            table::note(&lapse);
        }
        Ok(())
    }

    fn see(&mut self, folder: &PoolFolder, name: PoolName) {
        let known = self.seen.get(&name.entry).map(|seen| seen.lease);
        let read = || Some(Duration::from_secs(folder.read("claimed", &name)?.lease_s));
        if let Some(lease) = known.or_else(read) {
            let seen = Seen {
                name: name.clone(),
                since: Instant::now(),
                lease,
            };
            self.seen.insert(name.entry, seen);
        }
    }
}
