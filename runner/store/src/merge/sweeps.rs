//! Versions of sweeps of one name: of one sweep if both databases have a version, else of two sweeps, of which the other
//! gets another name.

use crate::error::Trouble;
use sqlx::{FromRow, SqliteConnection};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, FromRow)]
struct Version {
    sweep_id: i64,
    name: String,
    revision: i64,
    /// What makes it this version.
    digests: String,
    created_ms: i64,
}

/// Where a version of the other database comes.
struct Target {
    old: i64,
    new: i64,
    name: String,
    revision: i64,
    is_new: bool,
}

const VERSIONS: &str = "SELECT sweep_id, name, revision, created_ms,
    text_digest || ' ' || recipe_digest || ' ' || request_digest || ' ' || jobs_digest AS digests";

/// Makes the table `merge_sweep`, and room for versions before those that are here. Gives the sweeps that get another
/// name.
pub(super) async fn choose(conn: &mut SqliteConnection) -> Result<Vec<(String, String)>, Trouble> {
    let ours = versions(conn, "main").await?;
    let theirs = versions(conn, "other").await?;
    let mut names: BTreeSet<String> = ours.keys().chain(theirs.keys()).cloned().collect();
    let mut next = 1 + ours
        .values()
        .flatten()
        .map(|own| own.sweep_id)
        .max()
        .unwrap_or(0);
    let (mut targets, mut renamed) = (Vec::new(), Vec::new());
    for (name, theirs) in theirs {
        let known = ours.get(&name).map_or(&[][..], Vec::as_slice);
        let find = |their: &Version| known.iter().find(|own| own.digests == their.digests);
        let are_one = known.is_empty() || theirs.iter().any(|their| find(their).is_some());
        let target_name = if are_one {
            name.clone()
        } else {
            let free = free_name(&name, &names);
            names.insert(free.clone());
            renamed.push((name.clone(), free.clone()));
            free
        };
        let new: Vec<_> = theirs
            .iter()
            .filter(|their| find(their).is_none())
            .collect();
        let before = if are_one {
            first_revision(conn, known, &new).await?
        } else {
            0
        };
        for their in &theirs {
            let own = find(their);
            let revision = 1
                + before
                + new
                    .iter()
                    .take_while(|new| new.sweep_id != their.sweep_id)
                    .count() as i64;
            targets.push(Target {
                old: their.sweep_id,
                new: own.map_or(next, |own| own.sweep_id),
                name: target_name.clone(),
                revision,
                is_new: own.is_none(),
            });
            next += i64::from(own.is_none());
        }
    }
    put(conn, &targets).await?;
    Ok(renamed)
}

/// All versions in a database, by the name of the sweep and in their order.
async fn versions(
    conn: &mut SqliteConnection,
    schema: &str,
) -> Result<BTreeMap<String, Vec<Version>>, Trouble> {
    let sql = format!("{VERSIONS} FROM {schema}.sweep ORDER BY name, revision");
    let rows: Vec<Version> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .fetch_all(conn)
        .await?;
    let mut versions: BTreeMap<String, Vec<Version>> = BTreeMap::new();
    for row in rows {
        versions.entry(row.name.clone()).or_default().push(row);
    }
    Ok(versions)
}

/// The number of versions before those that a sweep gets: all that are `known` if a newer one is among them, else 0, and
/// the known ones move.
async fn first_revision(
    conn: &mut SqliteConnection,
    known: &[Version],
    new: &[&Version],
) -> Result<i64, Trouble> {
    let Some(current) = known.last().filter(|_| !new.is_empty()) else {
        return Ok(0);
    };
    if new.iter().any(|new| new.created_ms > current.created_ms) {
        return Ok(current.revision);
    }
    let n_new = i64::try_from(new.len()).unwrap_or(i64::MAX);
    // In two steps, since no two versions may have the same number at any time.
    for sql in [
        "UPDATE main.sweep SET revision = -(revision + ?2) WHERE name = ?1",
        "UPDATE main.sweep SET revision = -revision WHERE name = ?1 AND revision < 0",
    ] {
        sqlx::query(sql)
            .bind(&current.name)
            .bind(n_new)
            .execute(&mut *conn)
            .await?;
    }
    Ok(0)
}

/// `tiny-2` and so on.
fn free_name(name: &str, taken: &BTreeSet<String>) -> String {
    let mut number = 2;
    loop {
        let free = format!("{name}-{number}");
        if !taken.contains(&free) {
            return free;
        }
        number += 1;
    }
}

async fn put(conn: &mut SqliteConnection, targets: &[Target]) -> Result<(), Trouble> {
    sqlx::query(
        "CREATE TEMP TABLE merge_sweep (old INTEGER, new INTEGER, name TEXT, revision INTEGER, is_new INTEGER)",
    )
    .execute(&mut *conn)
    .await?;
    for target in targets {
        sqlx::query("INSERT INTO temp.merge_sweep VALUES (?, ?, ?, ?, ?)")
            .bind(target.old)
            .bind(target.new)
            .bind(&target.name)
            .bind(target.revision)
            .bind(target.is_new)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
