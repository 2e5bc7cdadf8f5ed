//! `sae-run diff`: two jobs side by side.

use crate::error::CliError;
use crate::show::fitted::{Column, fit, width};
use crate::show::{job, json, table};
use args::DiffArgs;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use store::{EvaluatedSae, JobDetails, SaeRow};

/// `sae-run diff JOB JOB`.
///
/// # Errors
/// No database or no such job.
pub(crate) async fn diff(args: &DiffArgs) -> Result<u8, CliError> {
    let store = job::open(&args.store).await?;
    let jobs = [store.job(&args.left).await?, store.job(&args.right).await?];
    let jobs = jobs.each_ref();
    let (settings, metrics) = (settings(jobs), metrics(jobs));
    if args.json {
        return json::print(&as_json(jobs, &settings, &metrics));
    }
    let mut text = String::new();
    for (side, job) in ["left", "right"].iter().zip(jobs) {
        text += &table::escaped(&format!(
            "{side:<5}  {} {} ({})",
            job.job_id,
            name(job),
            job.status
        ));
        text += "\n";
    }
    if jobs[0].job_id == jobs[1].job_id {
        text += "\nboth are the same job\n";
        return table::print(&text);
    }
    text += "\n";
    if settings.is_empty() {
        text +=
            "the settings are equal; the model, the data or the version of the trainer differs\n";
    } else {
        text += &side_by_side("setting", &settings, jobs);
    }
    if !metrics.is_empty() {
        text += "\n";
        text += &side_by_side("result", &metrics, jobs);
    }
    table::print(&text)
}

/// The name of a result, and its value in a row of such results.
type Metric<T> = (&'static str, fn(&T) -> Value);

/// What is compared, and its value in both jobs.
struct Row {
    name: String,
    values: [Value; 2],
}

fn name(job: &JobDetails) -> String {
    let name = job.newest_name();
    name.map_or_else(String::new, |name| format!("{}/{}", name.sweep, name.job))
}

/// The settings in which they differ.
fn settings(jobs: [&JobDetails; 2]) -> Vec<Row> {
    let [left, right] = jobs.map(|job| job.config.as_object().cloned().unwrap_or_default());
    let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let value =
        |config: &Map<String, Value>, key: &str| config.get(key).cloned().unwrap_or_default();
    let rows = keys.into_iter().map(|key| Row {
        name: key.clone(),
        values: [value(&left, key), value(&right, key)],
    });
    rows.filter(|row| row.values[0] != row.values[1]).collect()
}

/// The results of the SAEs that either has.
fn metrics(jobs: [&JobDetails; 2]) -> Vec<Row> {
    let mut names: Vec<&str> = Vec::new();
    for sae in jobs.iter().flat_map(|job| &job.saes) {
        if !names.contains(&sae.name.as_str()) {
            names.push(&sae.name);
        }
    }
    let of_training: [Metric<SaeRow>; 5] = [
        ("num_latents", |sae| json!(sae.num_latents)),
        ("step", |sae| json!(sae.step)),
        ("fvu", |sae| json!(sae.fvu)),
        ("l0", |sae| json!(sae.l0)),
        ("dead_pct", |sae| json!(sae.dead_pct)),
    ];
    let of_evaluation: [Metric<EvaluatedSae>; 4] = [
        ("fvu_eval", |sae| json!(sae.fvu)),
        ("l0_eval", |sae| json!(sae.l0)),
        ("ce_recovered", |sae| json!(sae.ce_recovered)),
        ("kl", |sae| json!(sae.kl)),
    ];
    let mut rows = Vec::new();
    for name in names {
        let trained = jobs.map(|job| job.saes.iter().find(|sae| sae.name == name));
        let evaluated = jobs.map(|job| job.evaluations.iter().find(|sae| sae.sae == name));
        rows.extend(of_training.map(|(metric, value)| Row {
            name: format!("{name} {metric}"),
            values: trained.map(|sae| sae.map_or(Value::Null, value)),
        }));
        rows.extend(of_evaluation.map(|(metric, value)| Row {
            name: format!("{name} {metric}"),
            values: evaluated.map(|sae| sae.map_or(Value::Null, value)),
        }));
    }
    rows.retain(|row| row.values != [Value::Null, Value::Null]);
    rows
}

fn side_by_side(heading: &str, rows: &[Row], jobs: [&JobDetails; 2]) -> String {
    let cells = |side: usize| rows.iter().map(move |row| shown(&row.values[side]));
    let difference = rows.iter().map(|row| {
        let [left, right] = row.values.each_ref().map(Value::as_f64);
        match left.zip(right) {
            Some((left, right)) if heading == "result" && left != right => {
                let digits = if left.fract() == 0.0 && right.fract() == 0.0 {
                    0
                } else {
                    4
                };
                format!("{:+.digits$}", right - left)
            }
            _ => String::new(),
        }
    });
    let [left, right] = jobs.map(|job| job.job_id.as_str());
    let mut columns = vec![
        Column::text(heading, rows.iter().map(|row| row.name.clone())),
        Column::number(left, cells(0)),
        Column::number(right, cells(1)),
    ];
    if heading == "result" {
        columns.push(Column::number("difference", difference).rank(1));
    }
    fit(columns, width()).text
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            let rounded = format!("{number:.4}");
            let is_exact = rounded.parse() == Ok(number) || number.abs() >= 0.01;
            if is_exact {
                rounded
            } else {
                format!("{number:e}")
            }
        }
        other => other.to_string(),
    }
}

fn as_json(jobs: [&JobDetails; 2], settings: &[Row], metrics: &[Row]) -> Value {
    let rows = |rows: &[Row]| {
        let row = |row: &Row| (row.name.clone(), json!(row.values));
        Value::Object(rows.iter().map(row).collect())
    };
    let mut results = json!({});
    for row in metrics {
        // No metric has a space in its name.
        let (sae, metric) = row.name.rsplit_once(' ').unwrap_or(("", &row.name));
        results[sae][metric] = json!(row.values);
    }
    json!({
        "jobs": jobs.map(|job| json!({"job_id": job.job_id, "job": name(job), "status": job.status.to_string()})),
        "settings": rows(settings),
        "results": results,
    })
}
