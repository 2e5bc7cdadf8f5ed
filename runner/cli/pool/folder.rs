//! The folder of the pool: each entry is one file, which is renamed from folder to folder.

use crate::error::CliError;
use crate::show::table::{begun_again, count};
use files::{OutputFile, bound};
use plan::runs_layout::POOL;
use plan::{POOL_FOLDERS, PoolName, PoolOffer, described_member};
use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// How a worker ended that was withdrawn, as an entry's name says it.
pub(crate) const WITHDRAWN: &str = "withdrawn";
/// The same of one that a signal ended.
pub(crate) const KILLED: &str = "killed";

/// Renewals that a list of the folder may not show yet, at most: those of a minute, with the shortest lease.
const MOST_RENEWALS: usize = 256;
/// How often an entry is looked for: one that is renamed while the folder is listed may be missed.
const N_LOOKS: u32 = 3;

/// The pool of a runs folder.
#[derive(Clone, Debug)]
pub(crate) struct PoolFolder {
    path: PathBuf,
}

/// Where an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// No machine has it.
    Waiting { n_runs: u32 },
    /// A member has it.
    Claimed { n_runs: u32, member: String },
    /// Its worker ended.
    Ended { how: String },
}

impl Place {
    /// For the user.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Waiting { n_runs } => {
                let after = match *n_runs {
                    0 => String::new(),
                    n => format!(", after {}", count(n as usize, "run")),
                };
                format!("waits for a machine of the pool{after}")
            }
            Self::Claimed { n_runs, member } => {
                let member = described_member(member);
                format!("is trained by {member}{}", begun_again(*n_runs))
            }
            Self::Ended { .. } => "has ended".to_owned(),
        }
    }
}

impl PoolFolder {
    /// That of the runs folder `runs_dir`.
    pub(crate) fn of(runs_dir: &Path) -> Self {
        Self {
            path: runs_dir.join(POOL),
        }
    }

    /// Makes what is missing of it.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn make(&self) -> Result<(), CliError> {
        for folder in POOL_FOLDERS {
            let path = self.path.join(folder);
            fs::create_dir_all(&path).map_err(|error| CliError::io("create", &path, &error))?;
        }
        Ok(())
    }

    /// Offers a stream that has no open attempt: what is left of its earlier entries is removed.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn offer(&self, entry: &str, offer: &PoolOffer) -> Result<(), CliError> {
        self.make()?;
        for earlier in self.list("ended")? {
            if is_of_stream(&earlier.entry, &offer.stream_id) {
                self.forget(&earlier.entry)?;
            }
        }
        let path = self.path.join("waiting").join(PoolName::waiting(entry, 0));
        let text = serde_json::to_vec_pretty(offer).expect("plain fields serialise to JSON");
        let write = || {
            let mut file = OutputFile::create(&path)?;
            file.write_all(&text)?;
            file.finish()
        };
        write().map_err(|error| CliError::io("write", &path, &error))
    }

    /// The entries that are in one of the folders, by name; none if there is no folder.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<PoolName>, CliError> {
        let path = self.path.join(folder);
        let list = || {
            let mut names = Vec::new();
            for entry in fs::read_dir(&path)? {
                let name = entry?.file_name();
                names.extend(name.to_str().and_then(PoolName::read));
            }
            names.sort_by(|a, b| a.entry.cmp(&b.entry));
            Ok(names)
        };
        match list() {
            Err(error) if ErrorKind::NotFound == io::Error::kind(&error) => Ok(Vec::new()),
            listed => listed.map_err(|error| CliError::io("read", &path, &error)),
        }
    }

    /// What an entry offers; `None`: it is no longer there, or damaged.
    pub(crate) fn read(&self, folder: &str, name: &PoolName) -> Option<PoolOffer> {
        let path = self.path.join(folder).join(text_of(name));
        let text = files::read(&path, bound::SETTINGS).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Takes an entry that waits, for `member`, and gives its file; `None`: another was faster.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn take(&self, name: &PoolName, member: &str) -> Result<Option<PathBuf>, CliError> {
        let claimed = name.claimed(member);
        let is_taken = self.rename(("waiting", &text_of(name)), ("claimed", &claimed))?;
        Ok(is_taken.then(|| self.path.join("claimed").join(claimed)))
    }

    /// Lets others take an entry whose member has not renewed it since it had that name; gives whether it was still so.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn put_back(&self, claimed: &PoolName) -> Result<bool, CliError> {
        let (folder, name) = self.after(claimed);
        self.rename(("claimed", &text_of(claimed)), (folder, &name))
    }

    /// Lets others take an entry that its member gives up; gives whether it was still its member's.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn give_up(&self, claimed: &PoolName) -> Result<bool, CliError> {
        let (folder, name) = self.after(claimed);
        self.rename_own(claimed, (folder, &name))
    }

    /// Says how the worker of an entry ended; gives whether it was still its member's.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn end(&self, claimed: &PoolName, how: &str) -> Result<bool, CliError> {
        self.rename_own(claimed, ("ended", &claimed.ended(how)))
    }

    /// Where an entry goes that is given up or lost.
    fn after(&self, claimed: &PoolName) -> (&'static str, String) {
        if self.is_withdrawn(&claimed.entry) {
            ("ended", claimed.ended(WITHDRAWN))
        } else {
            let n_runs = claimed.n_runs + 1;
            ("waiting", PoolName::waiting(&claimed.entry, n_runs))
        }
    }

    /// Renames an entry that this process has. Its worker may have renewed it since the folder was listed, or the list may
    /// be an old copy.
    fn rename_own(&self, claimed: &PoolName, to: (&str, &str)) -> Result<bool, CliError> {
        for name in claimed.renewed().take(MOST_RENEWALS) {
            if self.rename(("claimed", &text_of(&name)), to)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Has an entry trained no further: one that waits ends here, and a member that has it lets its worker save and end.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn withdraw(&self, entry: &str) -> Result<(), CliError> {
        self.make()?;
        let path = self.path.join("withdrawn").join(entry);
        fs::write(&path, "").map_err(|error| CliError::io("write", &path, &error))?;
        for name in self.list("waiting")? {
            if name.entry == entry {
                let ended = name.ended(WITHDRAWN);
                self.rename(("waiting", &text_of(&name)), ("ended", &ended))?;
            }
        }
        Ok(())
    }

    pub(crate) fn is_withdrawn(&self, entry: &str) -> bool {
        self.path.join("withdrawn").join(entry).exists()
    }

    /// Where an entry is; `None`: nowhere.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub(crate) fn place(&self, entry: &str) -> Result<Option<Place>, CliError> {
        for _ in 0..N_LOOKS {
            if let Some(place) = self.places()?.remove(entry) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Where all entries are.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub(crate) fn places(&self) -> Result<HashMap<String, Place>, CliError> {
        let mut places = HashMap::new();
        // Most are renamed in this order; the last place counts.
        for name in self.list("waiting")? {
            let n_runs = name.n_runs;
            places.insert(name.entry, Place::Waiting { n_runs });
        }
        for name in self.list("claimed")? {
            let n_runs = name.n_runs;
            let member = name.member().unwrap_or_default().to_owned();
            places.insert(name.entry, Place::Claimed { n_runs, member });
        }
        for name in self.list("ended")? {
            let how = name.rest.join(".");
            places.insert(name.entry, Place::Ended { how });
        }
        Ok(places)
    }

    /// Forgets an entry that has ended, whose attempt is closed.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn forget(&self, entry: &str) -> Result<(), CliError> {
        for name in self.list("ended")? {
            if name.entry == entry {
                remove(&self.path.join("ended").join(text_of(&name)))?;
            }
        }
        remove(&self.path.join("withdrawn").join(entry))
    }

    /// Whether there was something to rename: of several that rename it, one does.
    fn rename(&self, from: (&str, &str), to: (&str, &str)) -> Result<bool, CliError> {
        let [from, to] = [from, to].map(|(folder, name)| self.path.join(folder).join(name));
        match fs::rename(&from, &to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(CliError::io("rename", &from, &error)),
        }
    }
}

fn remove(path: &Path) -> Result<(), CliError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(CliError::io("remove", path, &error))
        }
        _ => Ok(()),
    }
}

/// A name for a stream's next entry that no other has.
pub(crate) fn new_entry(stream_id: &str) -> String {
    format!("{stream_id}-{:08x}", fastrand::u32(..))
}

fn is_of_stream(entry: &str, stream_id: &str) -> bool {
    entry
        .rsplit_once('-')
        .is_some_and(|(of, _)| of == stream_id)
}

/// A name as it is written.
fn text_of(name: &PoolName) -> String {
    let mut text = PoolName::waiting(&name.entry, name.n_runs);
    for part in &name.rest {
        text.push('.');
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered() -> (tempfile::TempDir, PoolFolder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = PoolFolder::of(dir.path());
        let offer = PoolOffer {
            runs_dir: dir.path().into(),
            stream_id: "ab12".into(),
            dir: "s/.streams/ab12".into(),
            lease_s: 2,
        };
        folder.offer("ab12-1", &offer).unwrap();
        (dir, folder)
    }

    #[test]
    fn of_many_that_want_an_entry_one_gets_it() {
        let (_dir, folder) = offered();
        let waiting = folder.list("waiting").unwrap().remove(0);
        assert_eq!(folder.read("waiting", &waiting).unwrap().stream_id, "ab12");
        let n_taken = std::thread::scope(|scope| {
            let (folder, waiting) = (&folder, &waiting);
            let take = |member: u32| move || folder.take(waiting, &format!("host+{member}"));
            let all: Vec<_> = (0..16).map(|member| scope.spawn(take(member))).collect();
            let taken = all.into_iter().map(|one| one.join().unwrap().unwrap());
            taken.flatten().count()
        });
        assert_eq!(n_taken, 1);
        let place = folder.place("ab12-1").unwrap().unwrap();
        assert!(matches!(place, Place::Claimed { n_runs: 0, .. }));
    }

    #[test]
    fn an_entry_goes_back_and_ends() {
        let (_dir, folder) = offered();
        let waiting = folder.list("waiting").unwrap().remove(0);
        folder.take(&waiting, "host+1").unwrap().unwrap();
        let claimed = folder.list("claimed").unwrap().remove(0);
        assert!(folder.put_back(&claimed).unwrap());
        assert!(!folder.put_back(&claimed).unwrap(), "another did");
        assert!(!folder.end(&claimed, "0").unwrap(), "it is lost");
        assert_eq!(
            folder.place("ab12-1").unwrap(),
            Some(Place::Waiting { n_runs: 1 })
        );
        let waiting = folder.list("waiting").unwrap().remove(0);
        folder.take(&waiting, "host+2").unwrap().unwrap();
        let claimed = folder.list("claimed").unwrap().remove(0);
        let renewed = claimed.renewed().nth(3).unwrap();
        let rename = folder.rename(
            ("claimed", &text_of(&claimed)),
            ("claimed", &text_of(&renewed)),
        );
        assert!(rename.unwrap());
        assert!(!folder.put_back(&claimed).unwrap(), "it was renewed");
        assert!(folder.end(&claimed, "0").unwrap());
        let ended = Place::Ended { how: "0".into() };
        assert_eq!(folder.place("ab12-1").unwrap(), Some(ended));
        folder.forget("ab12-1").unwrap();
        assert_eq!(folder.place("ab12-1").unwrap(), None);
    }

    #[test]
    fn what_was_not_forgotten_is_removed_with_the_next_offer() {
        let (_dir, folder) = offered();
        folder.withdraw("ab12-1").unwrap();
        let waiting = PoolName::read("ab1-1.0").unwrap();
        let of_another = folder.path.join("ended").join(waiting.ended("0"));
        fs::write(&of_another, "").unwrap();
        let offer = PoolOffer {
            runs_dir: folder.path.clone(),
            stream_id: "ab12".into(),
            dir: "s/.streams/ab12".into(),
            lease_s: 2,
        };
        let entry = new_entry("ab12");
        folder.offer(&entry, &offer).unwrap();
        assert_eq!(folder.place("ab12-1").unwrap(), None);
        assert!(!folder.is_withdrawn("ab12-1") && of_another.is_file());
        let place = folder.place(&entry).unwrap();
        assert_eq!(place, Some(Place::Waiting { n_runs: 0 }));
    }

    #[test]
    fn what_is_withdrawn_is_offered_no_more() {
        let (_dir, folder) = offered();
        folder.withdraw("ab12-1").unwrap();
        let ended = Some(Place::Ended {
            how: WITHDRAWN.into(),
        });
        assert_eq!(folder.place("ab12-1").unwrap(), ended);
        // While a member has it.
        let (_dir, folder) = offered();
        let waiting = folder.list("waiting").unwrap().remove(0);
        folder.take(&waiting, "host+1").unwrap().unwrap();
        folder.withdraw("ab12-1").unwrap();
        assert!(folder.is_withdrawn("ab12-1"));
        let claimed = folder.list("claimed").unwrap().remove(0);
        assert!(folder.put_back(&claimed).unwrap());
        assert_eq!(folder.place("ab12-1").unwrap(), ended);
        folder.forget("ab12-1").unwrap();
        assert!(!folder.is_withdrawn("ab12-1"));
    }
}
