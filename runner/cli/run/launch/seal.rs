//! How other ranks know an order of rank 0 from one that anyone else put into the store: the store's port is open to
//! the network. Without a seal, anyone who may write to it could decide what they start.
//!
//! The key is a file of the runs folder which its owner alone may read. Rank 0 makes a new one for each run; runs at the
//! same time have other addresses where their ranks meet, and so other files.

use crate::error::CliError;
use plan::StoreAddress;
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const KEY_BYTES: usize = 32;

/// What seals orders in a runs folder.
pub(super) struct Key([u8; KEY_BYTES]);

/// An order that only who has the key can have given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SealedOrder {
    /// Its file, relative to the runs folder.
    path: PathBuf,
    /// Of the file's bytes: BLAKE3, in hexadecimal.
    digest: String,
    /// Of the above and the number of the order: BLAKE3 with the key, in hexadecimal.
    seal: String,
}

// Never shown.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// Makes a new one for all ranks of the run that meet at `store`.
    ///
    /// # Errors
    /// The runs folder cannot be written.
    pub(super) fn make(runs_dir: &Path, store: &StoreAddress) -> Result<Self, CliError> {
        let path = key_path(runs_dir, store);
        let temporary = path.with_added_extension("tmp");
        let make = || {
            let mut key = [0; KEY_BYTES];
            getrandom::fill(&mut key).map_err(io::Error::other)?;
            // One that a killed run left may have any mode.
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&key)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            Ok(Self(key))
        };
        make().map_err(|error| CliError::io("write", &path, &error))
    }

    /// The one that rank 0 made.
    ///
    /// # Errors
    /// The key does not exist, others may read it, or it is another user's.
    pub(super) fn read(runs_dir: &Path, store: &StoreAddress) -> Result<Self, CliError> {
        let path = key_path(runs_dir, store);
        let read = || {
            let bytes = files::read(&path, KEY_BYTES as u64)?;
            let metadata = fs::metadata(&path)?;
            let is_secret = metadata.mode() & 0o077 == 0;
            let is_own = metadata.uid() == files::user_id();
            let key = bytes.try_into().ok().filter(|_| is_secret && is_own);
            key.ok_or_else(|| io::Error::other("it is not a key that only this user may read"))
        };
        read()
            .map(Self)
            .map_err(|error| CliError::io("read", &path, &error))
    }

    /// Removes the one of a run that ends.
    pub(super) fn remove(runs_dir: &Path, store: &StoreAddress) {
        // Of the next run with this address there will be another.
        let _ = fs::remove_file(key_path(runs_dir, store));
    }

    /// Seals the order in the file `path`, which is in `runs_dir` and is the `number`th of this run.
    ///
    /// # Errors
    /// The file cannot be read or is elsewhere.
    pub(super) fn seal(
        &self,
        path: &Path,
        runs_dir: &Path,
        number: u64,
    ) -> Result<SealedOrder, CliError> {
        let relative = path.strip_prefix(runs_dir).map_err(|_| {
            let message = format!("`{}` is not in `{}`", path.display(), runs_dir.display());
            CliError::environment(message)
        })?;
        let digest = digest_of(path)?;
        Ok(SealedOrder {
            path: relative.into(),
            seal: self.seal_of(relative, &digest, number).to_string(),
            digest,
        })
    }

    fn seal_of(&self, path: &Path, digest: &str, number: u64) -> blake3::Hash {
        let path = path.to_string_lossy();
        let sealed = format!("{number}\n{digest}\n{path}");
        blake3::keyed_hash(&self.0, sealed.as_bytes())
    }
}

impl SealedOrder {
    /// The order's file, if the seal was made with this key and the file is the one that was sealed.
    ///
    /// # Errors
    /// It is not, or it cannot be read.
    pub(super) fn open(
        &self,
        key: &Key,
        runs_dir: &Path,
        number: u64,
    ) -> Result<PathBuf, CliError> {
        let refused = |why: &str| {
            CliError::environment(format!(
                "an order that claims to be from rank 0 is refused: {why}"
            ))
            .with_hint(
                "another user may write to the port of the ranks' store; see docs/security.md"
                    .to_owned(),
            )
        };
        let expected = key.seal_of(&self.path, &self.digest, number);
        // Compared in constant time.
        if !blake3::Hash::from_hex(&self.seal).is_ok_and(|seal| seal == expected) {
            return Err(refused("its seal was not made with this run's key"));
        }
        if !files::stays_below(&self.path) {
            return Err(refused("its file is outside the runs folder"));
        }
        let path = runs_dir.join(&self.path);
        if digest_of(&path)? == self.digest {
            Ok(path)
        } else {
            Err(refused("its file is not the one that was sealed"))
        }
    }
}

fn key_path(runs_dir: &Path, store: &StoreAddress) -> PathBuf {
    let address = store.to_string();
    let plain = address.replace(|character: char| !character.is_ascii_alphanumeric(), "-");
    runs_dir.join(format!(".ranks.{plain}.key"))
}

fn digest_of(path: &Path) -> Result<String, CliError> {
    let bytes = files::read(path, files::bound::OWN);
    let bytes = bytes.map_err(|error| CliError::io("read", path, &error))?;
    Ok(blake3::hash(&bytes).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use files::testing::any_bytes;
    use plan::runs_layout::ORDER;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    const KEY: [u8; KEY_BYTES] = [7; KEY_BYTES];

    fn address() -> StoreAddress {
        StoreAddress {
            host: "127.0.0.1".into(),
            port: 29500,
            is_served_by_launcher: false,
        }
    }

    /// A folder with an order, which is the first of a run, and what a rank receives.
    fn sealed() -> (TempDir, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let order = dir.path().join(ORDER);
        fs::write(&order, "{}").unwrap();
        let sealed = Key(KEY).seal(&order, dir.path(), 1).unwrap();
        (dir, serde_json::to_vec(&sealed).unwrap())
    }

    #[test]
    fn only_who_has_the_key_gives_orders() {
        let dir = tempfile::tempdir().unwrap();
        let order = dir.path().join(ORDER);
        fs::write(&order, "{}").unwrap();
        let old = Key::make(dir.path(), &address()).unwrap();
        let key = Key::make(dir.path(), &address()).unwrap();
        let sealed = key.seal(&order, dir.path(), 3).unwrap();
        let read = Key::read(dir.path(), &address()).unwrap();
        assert_eq!(sealed.open(&read, dir.path(), 3).unwrap(), order);
        let refused = |sealed: &SealedOrder, key: &Key, number| {
            let error = sealed.open(key, dir.path(), number).unwrap_err();
            error.to_string()
        };
        assert!(
            refused(&sealed, &old, 3).contains("its seal"),
            "another run's"
        );
        assert!(refused(&sealed, &key, 4).contains("its seal"), "said again");
        let elsewhere = SealedOrder {
            path: "../order.json".into(),
            ..sealed.clone()
        };
        assert!(refused(&elsewhere, &key, 3).contains("its seal"));
        fs::write(&order, "{ }").unwrap();
        assert!(refused(&sealed, &key, 3).contains("its file is not the one that was sealed"));
        assert!(key.seal(Path::new("/etc/passwd"), dir.path(), 0).is_err());
    }

    #[test]
    fn a_key_that_others_may_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Key::read(dir.path(), &address()).is_err());
        Key::make(dir.path(), &address()).unwrap();
        let path = key_path(dir.path(), &address());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Key::read(dir.path(), &address()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_the_order_that_was_sealed_or_refused(
            text in any_bytes(vec![sealed().1]),
            number in 0..3_u64,
        ) {
            let (dir, sound) = sealed();
            for text in [&text, &sound] {
                let Ok(order) = serde_json::from_slice::<SealedOrder>(text) else {
                    continue;
                };
                match order.open(&Key(KEY), dir.path(), number) {
                    Ok(path) => prop_assert_eq!((path, number), (dir.path().join(ORDER), 1)),
                    Err(_) => prop_assert!(*text != sound || number != 1),
                }
            }
        }
    }
}
