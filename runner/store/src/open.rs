//! Opening the database, for writing or for reading, by any number of processes at the same time.

use crate::StoreError;
use crate::error::{OTHER_FOLDER, PERMISSIONS, Trouble, database_failed, result_code};
use crate::file_system::is_of_network;
use fault::Fault;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool, Transaction};
use std::cmp::Ordering;
use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// How long a statement waits for another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// The database of a runs folder.
#[derive(Clone, Debug)]
pub struct Store {
    /// One connection: SQLite has one writer at a time, and waiting in line here is cheaper than there.
    pool: SqlitePool,
    path: PathBuf,
}

/// Rows of a query that are read before they are asked for; each is held twice.
const ROWS_AHEAD: usize = 4;

impl Store {
    /// Opens the database for writing; makes it, and its folder, if missing; brings it up to date. The caller sees to
    /// it that no other process opens it for writing at the same moment.
    ///
    /// # Errors
    /// A folder or file that cannot be written, a file of another kind or program, a database of a
    /// newer or an unreleased version. None of these changes the file.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let path = absolute(path)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(no_folder(folder))?;
        }
        make(&path);
        let options = options(&path).create_if_missing(true);
        let store = Self::with(options, path).await?;
        store.bring_up_to_date(&MIGRATOR).await?;
        Ok(store)
    }

    /// Opens the database for reading only; another process may write it meanwhile.
    ///
    /// # Errors
    /// No database, a file of another kind or program, or another version's schema.
    pub async fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let path = absolute(path)?;
        let options = read_only_options(&path).await?;
        let store = Self::with(options, path).await?;
        let mut conn = store.acquire().await?;
        let path = &store.path;
        match schema(&mut conn).await.map_err(|e| e.at(path))? {
            Schema::Empty => return Err(StoreError::NoDatabase { path: path.clone() }),
            Schema::Foreign => return Err(foreign(path).into()),
            Schema::Version(found) => check_version(path, found, &MIGRATOR)?,
        }
        drop(conn);
        Ok(store)
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the database; what is written is then in the one file, without a log next to it.
    pub async fn close(self) {
        self.pool.close().await;
    }

    async fn with(options: SqliteConnectOptions, path: PathBuf) -> Result<Self, StoreError> {
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|error| StoreError::from_sqlx(&path, error))?;
        Ok(Self { pool, path })
    }

    async fn bring_up_to_date(&self, migrator: &Migrator) -> Result<(), StoreError> {
        let path = &self.path;
        let mut conn = self.acquire().await?;
        match schema(&mut conn).await.map_err(|e| e.at(path))? {
            Schema::Foreign => return Err(foreign(path).into()),
            Schema::Version(found) => match check_version(path, found, migrator) {
                // The migrations below bring it up to date.
                Err(StoreError::OlderSchema { .. }) => {}
                checked => checked?,
            },
            Schema::Empty => {}
        }
        check_writable(&mut conn).await.map_err(|e| e.at(path))?;
        // With a write-ahead log readers do not block a writer, nor a writer them. A file system that cannot do it
        // keeps the default mode, which only makes them wait for each other.
        let journal = if path.parent().is_some_and(is_of_network) {
            "PRAGMA journal_mode = DELETE"
        } else {
            "PRAGMA journal_mode = WAL"
        };
        sqlx::query(journal)
            .execute(&mut *conn)
            .await
            .map_err(|error| StoreError::from_sqlx(path, error))?;
        migrator
            .run(&mut *conn)
            .await
            .map_err(|error| migration_error(path, error))
    }

    pub(crate) async fn acquire(&self) -> Result<sqlx::pool::PoolConnection<Sqlite>, StoreError> {
        let conn = self.pool.acquire().await;
        conn.map_err(|error| StoreError::from_sqlx(&self.path, error))
    }

    /// Begins a transaction that writes. It takes the write lock at once: taking it later can fail
    /// when waiting does not help.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.pool.begin_with("BEGIN IMMEDIATE").await
    }

    /// Names the file in what went wrong with `work`.
    pub(crate) async fn located<T>(
        &self,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, StoreError> {
        work.await.map_err(|trouble| trouble.at(&self.path))
    }
}

/// Makes an empty file if there is no file, with the permissions that the umask leaves. SQLite would let only its owner
/// write to it, and the files next to it get the permissions of this one.
fn make(path: &Path) {
    // If there is a file, or it cannot be made, SQLite gives the message.
    let _ = File::create_new(path);
}

/// A connection that cannot write, whatever the statement.
pub(crate) async fn connect_read_only(path: &Path) -> Result<SqliteConnection, StoreError> {
    let options = read_only_options(path).await?;
    let conn = options
        // What a query sorts is in memory, where it is bounded, and not in files, where it fills the disk.
        .pragma("temp_store", "MEMORY")
        .row_buffer_size(ROWS_AHEAD)
        .connect()
        .await;
    conn.map_err(|error| StoreError::from_sqlx(path, error))
}

/// What is in the file.
enum Schema {
    /// Nothing yet.
    Empty,
    /// Tables of another program.
    Foreign,
    /// Ours, up to this migration.
    Version(i64),
}

async fn schema(conn: &mut SqliteConnection) -> Result<Schema, Trouble> {
    let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_schema")
        .fetch_all(&mut *conn)
        .await?;
    if tables.is_empty() {
        return Ok(Schema::Empty);
    }
    if !tables.iter().any(|table| table == "_sqlx_migrations") {
        return Ok(Schema::Foreign);
    }
    let version: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(&mut *conn)
        .await?;
    match version {
        // The first migration did not finish.
        None => Ok(Schema::Empty),
        Some(_) if !tables.iter().any(|table| table == "sweep_job") => Ok(Schema::Foreign),
        Some(version) => Ok(Schema::Version(version)),
    }
}

/// Compares a database's newest migration, `found`, with those of this program.
fn check_version(path: &Path, found: i64, migrator: &Migrator) -> Result<(), StoreError> {
    let known = newest(migrator);
    match found.cmp(&known) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(newer(path, found, known).into()),
        Ordering::Less if migrator.version_exists(found) => Err(StoreError::OlderSchema {
            path: path.to_owned(),
            found,
            known,
        }),
        Ordering::Less => Err(unreleased(path, found).into()),
    }
}

/// A database that a newer version has written.
fn newer(path: &Path, found: i64, known: i64) -> Fault {
    Fault::input(format!(
        "the database `{}` has schema {found}, this version knows schemas up to {known}",
        path.display()
    ))
    .with_hint("nothing was changed; use the version that wrote it, or a newer one")
}

/// A database that a version before the first release has written. No version can bring it up to date.
fn unreleased(path: &Path, found: i64) -> Fault {
    Fault::input(format!(
        "the database `{}` has schema {found}, which only an unreleased version of sae-run knows",
        path.display()
    ))
    .with_hint(
        "nothing was changed; keep the folder as it is (its checkpoints are complete without the database, and \
         the version that wrote it still reads it) and choose another with `runs_dir`",
    )
}

/// A database of another program.
fn foreign(path: &Path) -> Fault {
    let message = format!("`{}` is a database of another program", path.display());
    Fault::input(message).with_hint(OTHER_FOLDER)
}

fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Takes and gives back the write lock: a file that cannot be written opens without complaint.
async fn check_writable(conn: &mut SqliteConnection) -> Result<(), Trouble> {
    let tx = conn.begin_with("BEGIN IMMEDIATE").await?;
    Ok(tx.rollback().await?)
}

fn migration_error(path: &Path, error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
            StoreError::from_sqlx(path, source)
        }
        MigrateError::VersionMismatch(version)
        | MigrateError::VersionMissing(version)
        | MigrateError::Dirty(version) => Fault::input(format!(
            "the database `{}` was made with another text of migration {version}",
            path.display()
        ))
        .with_hint("nothing was changed; use the version that wrote it")
        .into(),
        other => database_failed(path, other).into(),
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // In WAL mode a power cut can take back the last commits, but whole, and with them the
        // number of the last event folded: the next fold takes those events in again.
        .synchronous(SqliteSynchronous::Normal)
        // The last page of every SAE's metrics is written again and again: 64 MB keep those of 10 000
        // SAEs in reach, and a log of 32 MB takes many versions of a page before it is copied.
        .pragma("cache_size", "-64000")
        .pragma("wal_autocheckpoint", "8000")
}

/// Options that open `path` without any right to write: the file is opened read-only, and beyond it
/// `query_only` refuses what would write elsewhere.
async fn read_only_options(path: &Path) -> Result<SqliteConnectOptions, StoreError> {
    if !path.is_file() {
        return Err(StoreError::NoDatabase {
            path: path.to_owned(),
        });
    }
    let shared = options(path).read_only(true).pragma("query_only", "ON");
    match probe(&shared).await {
        // A reader, too, wants to write the index of the log next to the file. If the folder
        // forbids it and no log is left to read, the file alone is all there is.
        Err(error) if matches!(result_code(&error), Some(8 | 14)) && !has_log(path) => {
            Ok(shared.immutable(true))
        }
        Err(error) => Err(StoreError::from_sqlx(path, error)),
        Ok(()) => Ok(shared),
    }
}

async fn probe(options: &SqliteConnectOptions) -> Result<(), sqlx::Error> {
    let mut conn = options.connect().await?;
    sqlx::query("SELECT count(*) FROM sqlite_schema")
        .execute(&mut conn)
        .await?;
    conn.close().await
}

fn has_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(PathBuf::from(log)).is_ok_and(|log| log.len() > 0)
}

/// SQLite takes a relative `file:...` for a URI, and the working directory may change.
fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    Ok(std::path::absolute(path).map_err(no_folder(path))?)
}

/// The folder of the database cannot be made.
fn no_folder(folder: &Path) -> impl FnOnce(io::Error) -> Fault {
    let fault = Fault::io("create the folder", folder);
    |source| fault(source).with_hint(PERMISSIONS)
}

/// The time, in ms since the epoch, UTC.
pub(crate) fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| int(elapsed.as_millis()))
}

/// SQLite's integers are signed; no count comes near the limit.
pub(crate) fn int(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestStore, plan};
    use fault::Remedy;
    use flate2::read::GzDecoder;
    use serde_json::json;
    use sqlx::SqlSafeStr;
    use sqlx::migrate::{Migration, MigrationType};
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    #[tokio::test]
    async fn a_database_is_made_with_its_folder_and_opens_again() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a folder/of runs/runs.db");
        for _ in 0..2 {
            let store = Store::open(&path).await.unwrap();
            let mode = store.query("SELECT * FROM pragma_journal_mode").await;
            assert_eq!(mode.unwrap().rows, [[json!("wal")]]);
            store.close().await;
        }
        assert!(!has_log(&path), "closing leaves one file");
    }

    #[tokio::test]
    async fn a_database_of_a_newer_version_is_refused_and_left_alone() {
        let test = TestStore::new().await;
        let newest = "(SELECT max(version) FROM _sqlx_migrations)";
        let sql =
            format!("UPDATE _sqlx_migrations SET version = version + 1 WHERE version = {newest}");
        test.execute(&sql).await.unwrap();
        test.store.clone().close().await;
        let before = fs::read(test.path()).unwrap();
        for error in [
            Store::open(&test.path()).await.unwrap_err(),
            Store::open_read_only(&test.path()).await.unwrap_err(),
        ] {
            assert!(
                error
                    .to_string()
                    .contains("this version knows schemas up to"),
                "{error}"
            );
            assert!(error.hint().unwrap().contains("newer"));
        }
        assert_eq!(fs::read(test.path()).unwrap(), before);
    }

    /// The migrations of a later release: ours and one more.
    fn later_release() -> Migrator {
        let sql = sqlx::AssertSqlSafe("ALTER TABLE job ADD COLUMN colour TEXT").into_sql_str();
        let next = Migration::new(
            newest(&MIGRATOR) + 1,
            "colour".into(),
            MigrationType::Simple,
            sql,
            false,
        );
        let ours = MIGRATOR.iter().cloned();
        Migrator::with_migrations(ours.chain([next]).collect())
    }

    #[tokio::test]
    async fn a_database_of_an_earlier_release_is_brought_up_to_date() {
        let test = TestStore::new().await;
        test.record(&plan("s", &[json!({"k": 4})])).await;
        let later = later_release();
        let error = check_version(&test.path(), newest(&MIGRATOR), &later).unwrap_err();
        assert!(matches!(error, StoreError::OlderSchema { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("run any sweep"));
        test.store.bring_up_to_date(&later).await.unwrap();
        let jobs = test.rows("SELECT colour FROM job").await;
        assert_eq!(jobs, [[json!(null)]]);
    }

    /// What the version before the first release wrote.
    const UNRELEASED: &[u8] =
        include_bytes!("../../../tests/fixtures/database/20261125000000.db.gz");

    #[tokio::test]
    async fn a_database_of_an_unreleased_version_is_refused_and_left_alone() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("runs.db");
        let mut before = Vec::new();
        let mut unpacked = GzDecoder::new(UNRELEASED);
        unpacked.read_to_end(&mut before).unwrap();
        fs::write(&path, &before).unwrap();
        for error in [
            Store::open(&path).await.unwrap_err(),
            Store::open_read_only(&path).await.unwrap_err(),
        ] {
            assert!(
                error
                    .to_string()
                    .contains("has schema 20261125000000, which only an unreleased version"),
                "{error}"
            );
            assert!(error.to_string().contains("runs.db"), "{error}");
            assert!(error.hint().unwrap().contains("`runs_dir`"));
        }
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[tokio::test]
    async fn a_migration_of_another_wording_is_refused() {
        let test = TestStore::new().await;
        test.execute("UPDATE _sqlx_migrations SET checksum = x'00'")
            .await
            .unwrap();
        test.store.clone().close().await;
        let error = Store::open(&test.path()).await.unwrap_err();
        assert!(
            error.to_string().contains("another text of migration"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn other_files_are_refused_and_left_alone() {
        let folder = TempDir::new().unwrap();
        let text = folder.path().join("notes.txt");
        fs::write(
            &text,
            "no database, but long enough to have a header ".repeat(40),
        )
        .unwrap();
        let before = fs::read(&text).unwrap();
        for error in [
            Store::open(&text).await.unwrap_err(),
            Store::open_read_only(&text).await.unwrap_err(),
        ] {
            assert!(
                error.to_string().ends_with("is not an SQLite database"),
                "{error}"
            );
        }
        assert_eq!(fs::read(&text).unwrap(), before);

        let other = folder.path().join("other.db");
        let mut conn = SqliteConnectOptions::new()
            .filename(&other)
            .create_if_missing(true)
            .connect()
            .await
            .unwrap();
        sqlx::query("CREATE TABLE bookmark (url TEXT)")
            .execute(&mut conn)
            .await
            .unwrap();
        conn.close().await.unwrap();
        let before = fs::read(&other).unwrap();
        for error in [
            Store::open(&other).await.unwrap_err(),
            Store::open_read_only(&other).await.unwrap_err(),
        ] {
            assert!(
                error
                    .to_string()
                    .ends_with("is a database of another program"),
                "{error}"
            );
        }
        assert_eq!(fs::read(&other).unwrap(), before);
    }

    #[tokio::test]
    async fn a_missing_database_and_an_impossible_folder_are_told() {
        let folder = TempDir::new().unwrap();
        let missing = folder.path().join("none/runs.db");
        let error = Store::open_read_only(&missing).await.unwrap_err();
        assert!(matches!(error, StoreError::NoDatabase { .. }));
        assert!(error.hint().is_some());
        assert!(!missing.parent().unwrap().exists(), "reading makes nothing");

        fs::write(folder.path().join("file"), "").unwrap();
        let error = Store::open(&folder.path().join("file/runs.db")).await;
        let error = error.unwrap_err();
        assert!(
            error.to_string().starts_with("cannot create the folder"),
            "{error}"
        );
        let error = Store::open(folder.path()).await.unwrap_err();
        assert!(
            error.to_string().starts_with("cannot open the database"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_reader_works_next_to_the_writer_and_cannot_write() {
        let test = TestStore::new().await;
        let reader = Store::open_read_only(&test.path()).await.unwrap();
        let plan = plan("s", &[json!({"k": 4})]);
        test.record(&plan).await;
        assert_eq!(reader.sweeps().await.unwrap().len(), 1, "sees what is new");
        let writing = test.store.begin().await.unwrap();
        assert_eq!(reader.sweeps().await.unwrap().len(), 1, "does not wait");
        drop(writing);
        let error = reader.reset_jobs(&["x"]).await.unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("or its folder cannot be written"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_read_only_folder_can_be_read_and_is_refused_for_writing() {
        let test = TestStore::new().await;
        test.record(&plan("s", &[json!({"k": 4})])).await;
        test.store.clone().close().await;
        let folder = test.folder.path();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        mode(&test.path(), 0o444).unwrap();
        mode(folder, 0o555).unwrap();
        let reader = Store::open_read_only(&test.path()).await.unwrap();
        assert_eq!(reader.sweeps().await.unwrap().len(), 1);
        assert_eq!(
            reader.query("SELECT name FROM sweep").await.unwrap().rows,
            [["s"]]
        );
        reader.close().await;
        // Permissions do not bind root.
        if fs::write(folder.join("probe"), "").is_err() {
            let error = Store::open(&test.path()).await.unwrap_err();
            assert!(
                error
                    .to_string()
                    .ends_with("or its folder cannot be written"),
                "{error}"
            );
        }
        mode(folder, 0o755).unwrap();
    }

    #[tokio::test]
    async fn without_shared_memory_the_file_alone_is_read() {
        let test = TestStore::new().await;
        test.record(&plan("s", &[json!({"k": 4})])).await;
        test.store.clone().close().await;
        let options = options(&test.path()).read_only(true).immutable(true);
        let store = Store::with(options, test.path()).await.unwrap();
        assert_eq!(store.sweeps().await.unwrap().len(), 1);
    }
}
