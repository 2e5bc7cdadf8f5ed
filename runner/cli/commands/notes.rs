//! `sae-run note` and `sae-run tag`: what users write about jobs and sweeps.

use crate::error::CliError;
use crate::show::table::{self, count, time};
use crate::show::{job, json};
use crate::sweep::config;
use args::{NoteArgs, StoreArgs, TagArgs};
use plan::runs_layout::DATABASE;
use serde_json::{Value, json};
use store::{Store, Subject, UserNote};

/// Characters of a note that are kept, at most: it is shown in tables.
const MOST_CHARACTERS: usize = 2000;

/// `sae-run note`.
///
/// # Errors
/// No database, no such job or sweep, an empty or endless note.
pub(crate) async fn note(args: &NoteArgs) -> Result<u8, CliError> {
    let store = open(&args.store).await?;
    let subject = store.subject(&args.target).await?;
    match &args.text {
        Some(text) => {
            check_note(text)?;
            store.add_note(&subject, text).await?;
            if !args.json {
                table::note(&format!("noted on {}", name(&subject)));
            }
        }
        None if args.delete => {
            let n = store.notes_on(&subject).await?.len();
            store.remove_notes(&subject).await?;
            if !args.json {
                table::note(&format!(
                    "removed {} of {}",
                    count(n, "note"),
                    name(&subject)
                ));
            }
        }
        None if !args.json => {
            let notes = store.notes_on(&subject).await?;
            table::print(&notes.iter().map(line).collect::<String>())?;
        }
        None => {}
    }
    if args.json {
        let notes = store.notes_on(&subject).await?;
        let notes = notes
            .iter()
            .map(|note| json!({"text": note.text, "created_ms": note.created_ms}));
        json::print(&object(&subject, "notes", notes.collect()))?;
    }
    store.close().await;
    Ok(0)
}

/// `sae-run tag`.
///
/// # Errors
/// No database, no such job or sweep.
pub(crate) async fn tag(args: &TagArgs) -> Result<u8, CliError> {
    let store = open(&args.store).await?;
    let subject = store.subject(&args.target).await?;
    for tag in &args.tags {
        if args.delete {
            store.remove_tag(&subject, tag).await?;
        } else {
            store.add_tag(&subject, tag).await?;
        }
    }
    let tags = store.tags_of(&subject).await?;
    store.close().await;
    if args.json {
        return json::print(&object(&subject, "tags", json!(tags)));
    }
    if args.tags.is_empty() {
        let lines = tags.iter().map(|tag| format!("{tag}\n"));
        return table::print(&lines.collect::<String>());
    }
    let now = if tags.is_empty() {
        "no tag".to_owned()
    } else {
        format!("the tags {}", tags.join(" "))
    };
    table::note(&format!("{} has {now}", name(&subject)));
    Ok(0)
}

/// Opens the database for writing; a folder without one is not made one. A sweep may run meanwhile.
async fn open(args: &StoreArgs) -> Result<Store, CliError> {
    job::open(args).await?.close().await;
    Ok(Store::open(&config::runs_dir(args)?.join(DATABASE)).await?)
}

/// What is on a job or a sweep, under the key `what`.
fn object(subject: &Subject, what: &str, list: Value) -> Value {
    match subject {
        Subject::Job(job_id) => json!({"job_id": job_id, what: list}),
        Subject::Sweep(sweep) => json!({"sweep": sweep, what: list}),
    }
}

fn name(subject: &Subject) -> String {
    match subject {
        Subject::Job(job_id) => format!("job {job_id}"),
        Subject::Sweep(sweep) => format!("sweep `{sweep}`"),
    }
}

fn line(note: &UserNote) -> String {
    format!(
        "{}  {}\n",
        time(note.created_ms),
        table::escaped(&note.text)
    )
}

fn check_note(text: &str) -> Result<(), CliError> {
    let n = text.chars().count();
    match n {
        0 => Err(CliError::input("the note is empty")
            .with_hint("`--delete` removes all notes".to_owned())),
        1..=MOST_CHARACTERS => Ok(()),
        _ => Err(CliError::input(format!("the note has {n} characters"))
            .with_hint(format!("at most {MOST_CHARACTERS} are kept"))),
    }
}
