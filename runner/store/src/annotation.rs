//! Tables `note` and `tag`: what users write about jobs and sweeps.

use crate::error::{StoreError, Trouble};
use crate::job_name::resolve;
use crate::open::{Store, now_ms};
use crate::sweep;
use sqlx::{FromRow, SqliteConnection};

/// What a note or a tag is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A job, by its id.
    Job(String),
    /// A sweep, by its name.
    Sweep(String),
}

/// A note of a user.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct UserNote {
    /// Its number.
    pub note_id: i64,
    /// The note.
    pub text: String,
    /// When it was written, ms since the epoch, UTC.
    pub created_ms: i64,
}

impl Subject {
    /// The columns `job_id` and `sweep`.
    fn columns(&self) -> (Option<&str>, Option<&str>) {
        match self {
            Self::Job(job_id) => (Some(job_id), None),
            Self::Sweep(name) => (None, Some(name)),
        }
    }
}

impl Store {
    /// The sweep that has this name, or the job as in [`Store::job`].
    ///
    /// # Errors
    /// A name that nothing has, or several jobs.
    pub async fn subject(&self, wanted: &str) -> Result<Subject, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            let names = sweep::names(&mut conn).await?;
            Ok(if names.iter().any(|name| name == wanted) {
                Subject::Sweep(wanted.to_owned())
            } else {
                Subject::Job(resolve(&mut conn, wanted).await?)
            })
        })
        .await
    }

    /// The notes on a job or a sweep, the oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn notes_on(&self, subject: &Subject) -> Result<Vec<UserNote>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(notes(&mut conn, subject)).await
    }

    /// The tags of a job or a sweep, in the order of the alphabet.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn tags_of(&self, subject: &Subject) -> Result<Vec<String>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(tags(&mut conn, subject)).await
    }

    /// Adds a note.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn add_note(&self, subject: &Subject, text: &str) -> Result<(), StoreError> {
        let (job_id, sweep) = subject.columns();
        let sql = "INSERT INTO note (job_id, sweep, text, created_ms) VALUES (?, ?, ?, ?)";
        let added = sqlx::query(sql).bind(job_id).bind(sweep).bind(text);
        self.change(added.bind(now_ms())).await
    }

    /// Removes all notes on a job or a sweep.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn remove_notes(&self, subject: &Subject) -> Result<(), StoreError> {
        let (job_id, sweep) = subject.columns();
        let sql = "DELETE FROM note WHERE job_id = ? OR sweep = ?";
        self.change(sqlx::query(sql).bind(job_id).bind(sweep)).await
    }

    /// Gives a job or a sweep a tag; one that it has already changes nothing.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn add_tag(&self, subject: &Subject, tag: &str) -> Result<(), StoreError> {
        let (job_id, sweep) = subject.columns();
        let sql = "INSERT INTO tag (job_id, sweep, tag, created_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING";
        let added = sqlx::query(sql).bind(job_id).bind(sweep).bind(tag);
        self.change(added.bind(now_ms())).await
    }

    /// Takes a tag off a job or a sweep.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn remove_tag(&self, subject: &Subject, tag: &str) -> Result<(), StoreError> {
        let (job_id, sweep) = subject.columns();
        let sql = "DELETE FROM tag WHERE (job_id = ? OR sweep = ?) AND tag = ?";
        let removed = sqlx::query(sql).bind(job_id).bind(sweep).bind(tag);
        self.change(removed).await
    }

    async fn change(
        &self,
        statement: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<(), StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            statement.execute(&mut *tx).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

pub(crate) async fn notes(
    conn: &mut SqliteConnection,
    subject: &Subject,
) -> Result<Vec<UserNote>, Trouble> {
    let (job_id, sweep) = subject.columns();
    let sql =
        "SELECT note_id, text, created_ms FROM note WHERE job_id = ? OR sweep = ? ORDER BY note_id";
    let rows = sqlx::query_as(sql).bind(job_id).bind(sweep);
    Ok(rows.fetch_all(conn).await?)
}

pub(crate) async fn tags(
    conn: &mut SqliteConnection,
    subject: &Subject,
) -> Result<Vec<String>, Trouble> {
    let (job_id, sweep) = subject.columns();
    let sql = "SELECT tag FROM tag WHERE job_id = ? OR sweep = ? ORDER BY tag";
    let rows = sqlx::query_scalar(sql).bind(job_id).bind(sweep);
    Ok(rows.fetch_all(conn).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestStore, plan};
    use serde_json::json;

    #[tokio::test]
    async fn notes_and_tags_are_kept_listed_and_go_with_their_job() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let (store, job_id) = (&test.store, &plan.jobs[0].job_id);
        let job = store.subject(&job_id[..8]).await.unwrap();
        assert_eq!(job, Subject::Job(job_id.clone()));
        let sweep = store.subject("s").await.unwrap();
        assert_eq!(sweep, Subject::Sweep("s".into()));
        for subject in [&job, &sweep] {
            for text in ["first", "second"] {
                store.add_note(subject, text).await.unwrap();
                store.add_tag(subject, "good").await.unwrap();
            }
            store.add_tag(subject, "best").await.unwrap();
            let notes = store.notes_on(subject).await.unwrap();
            let notes: Vec<_> = notes.iter().map(|note| note.text.as_str()).collect();
            assert_eq!(notes, ["first", "second"]);
            assert_eq!(store.tags_of(subject).await.unwrap(), ["best", "good"]);
        }
        store.remove_tag(&sweep, "best").await.unwrap();
        let sweeps = store.sweeps().await.unwrap();
        assert_eq!(sweeps[0].tags.as_deref(), Some("good"));
        assert_eq!(sweeps[0].note.as_deref(), Some("second"));
        let (all, limits) = (crate::Listing::default(), crate::QueryLimits::default());
        let listing = store.listing(&all, &limits).await.unwrap();
        let tags = listing
            .columns
            .iter()
            .position(|name| name == "tags")
            .unwrap();
        assert_eq!(listing.rows[0][tags], "best good");
        assert!(listing.rows[1][tags].is_null());

        store.remove_notes(&sweep).await.unwrap();
        assert!(store.notes_on(&sweep).await.unwrap().is_empty());
        let removal = store.removal(&["s"]).await.unwrap();
        store.remove(&removal).await.unwrap();
        let left = "SELECT (SELECT count(*) FROM note) + (SELECT count(*) FROM tag)";
        assert_eq!(test.rows(left).await, [[json!(0)]]);
    }
}
