//! The model card: what a stranger wants to know about the SAEs, from the database.

use super::crosscoders::{Crosscoder, CrosscoderUse};
use super::listed::Listed;
use crate::error::CliError;
use crate::show::table::{count, k_of, number};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use plan::SaeLayout;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

const NAME: &str = "card.md";

/// What a card is about.
pub(super) struct Card<'a> {
    pub(super) repo: &'a str,
    /// `None`: the main one.
    pub(super) branch: Option<&'a str>,
    pub(super) license: Option<&'a str>,
    /// The SAEs of the repository, those of earlier publications too.
    pub(super) saes: &'a [Listed],
    pub(super) runs_dir: &'a Path,
    /// Whether the text of the sweeps is included, unchanged.
    pub(super) include_sweep: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    folder: &'a str,
    hookpoint: &'a str,
    /// Names of the layouts that it is in.
    layout: String,
    d_in: u64,
    num_latents: u64,
    k: String,
    fvu: String,
    l0: String,
    dead_pct: String,
    ce_recovered: String,
    kl: String,
    n_tokens: u64,
    kind: &'a str,
    /// Empty if none was calibrated.
    threshold: String,
}

/// Text that is shown when its title is clicked on.
#[derive(Serialize)]
struct Folded {
    title: String,
    text: String,
}

impl Card<'_> {
    /// The text.
    ///
    /// # Errors
    /// A secret in it.
    pub(super) fn render(&self) -> Result<String, CliError> {
        let saes: Vec<_> = self.saes.iter().map(row).collect();
        let place = |layout: &SaeLayout| {
            let mut places = self.saes.iter().filter_map(|sae| sae.places.get(layout));
            places.next()
        };
        let is_loaded_at_once = |sae: &Listed| {
            let place = sae.places.get(&SaeLayout::Sparsify);
            place.is_some_and(|folder| !folder.contains('/'))
        };
        let crosscoders = self.saes.iter().filter_map(Crosscoder::of);
        let loadable = |sae| CrosscoderUse::of(sae, self.runs_dir);
        let crosscoder = self.saes.iter().find_map(loadable);
        // What has a slash is of the Hub.
        let of_hub = |names: BTreeSet<&str>| {
            let names = names.into_iter().filter(|name| name.contains('/'));
            Value::from_iter(names.map(str::to_owned))
        };
        let card = context! {
            repo => self.repo,
            license => self.license,
            base_models => of_hub(self.models()),
            datasets => of_hub(self.datasets()),
            summary => self.summary(),
            saes => Value::from(Serde(saes)),
            sparsify => place(&SaeLayout::Sparsify),
            are_loaded_at_once => self.saes.iter().all(is_loaded_at_once),
            saelens => place(&SaeLayout::SaeLens),
            circuit_tracer => self.circuit_tracer_sets(),
            crosscoders => Value::from(Serde(crosscoders.collect::<Vec<_>>())),
            crosscoder => Value::from(Serde(crosscoder)),
            branch => self.branch,
            encoded => self.saes.iter().find_map(Listed::in_folder),
            has_thresholds => self.saes.iter().any(|sae| sae.sae.result.threshold.is_some()),
            jobs => Value::from(Serde(self.jobs())),
            provenance => self.provenance(),
            sweeps => Value::from(Serde(self.sweeps())),
        };
        let text = environment().and_then(|env| env.get_template(NAME)?.render(card));
        let text =
            text.map_err(|error| CliError::environment(format!("cannot make the card: {error}")))?;
        if plan::has_secret(&text) {
            Err(CliError::input("the model card would reveal a secret")
                .with_hint("leave `--include-sweep` out, or look at the names of jobs".to_owned()))
        } else {
            Ok(text + "\n")
        }
    }

    /// The models that the SAEs are of.
    fn models(&self) -> BTreeSet<&str> {
        let of = self.saes.iter().map(|sae| &sae.public);
        let models = of.flat_map(|of| [Some(&of.model), of.crosscoder_model.as_ref()]);
        models.flatten().map(String::as_str).collect()
    }

    fn datasets(&self) -> BTreeSet<&str> {
        let of = self.saes.iter().map(|sae| &sae.public);
        of.map(|of| of.dataset.as_str()).collect()
    }

    fn summary(&self) -> String {
        let join = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
        format!(
            "{} on activations of {}, trained on {} with sae-run {}.",
            self.what(),
            join(self.models()),
            join(self.datasets()),
            env!("CARGO_PKG_VERSION")
        )
    }

    /// `A sparse autoencoder`, `4 transcoders`.
    fn what(&self) -> String {
        let kinds = self.saes.iter().map(|sae| &*sae.sae.result.kind);
        let are_all = |prefix: &str| kinds.clone().all(|kind| kind.starts_with(prefix));
        let jobs = self.saes.iter().map(|sae| &sae.sae.result.job_id);
        let n = self.saes.len();
        if are_all("cross-layer ") && distinct(jobs).len() == 1 {
            return format!("A cross-layer transcoder of {}", count(n, "layer"));
        }
        let noun = if are_all("cross-layer ") {
            "cross-layer transcoder's layer"
        } else if are_all("transcoder ") {
            "transcoder"
        } else if are_all("crosscoder ") {
            "crosscoder"
        } else {
            "sparse autoencoder"
        };
        if n == 1 {
            format!("A {noun}")
        } else {
            count(n, noun)
        }
    }

    /// What circuit-tracer calls the sets.
    fn circuit_tracer_sets(&self) -> Vec<String> {
        let files = self.saes.iter();
        let files = files.filter_map(|sae| sae.places.get(&SaeLayout::CircuitTracer));
        let branch = self.branch.map(|branch| format!("@{branch}"));
        let branch = branch.unwrap_or_default();
        let sets = files.map(|file| match file.rsplit_once('/') {
            Some((folder, _)) => format!("{}/{folder}{branch}", self.repo),
            None => format!("{}{branch}", self.repo),
        });
        distinct(sets)
    }

    /// The settings of each job.
    fn jobs(&self) -> Vec<Folded> {
        let jobs = self.saes.iter().map(|Listed { sae, public, .. }| {
            let id = &sae.result.job_id;
            (&public.name, id, &public.settings)
        });
        let folded = distinct(jobs)
            .into_iter()
            .map(|(job, job_id, settings)| Folded {
                title: format!("{job} ({job_id})"),
                text: settings.clone(),
            });
        folded.collect()
    }

    /// The text of each sweep, if it is wanted.
    fn sweeps(&self) -> Vec<Folded> {
        if !self.include_sweep {
            return Vec::new();
        }
        let sweeps = self.saes.iter().map(|Listed { sae, .. }| {
            let of = &sae.provenance;
            (&sae.result.sweep, of.revision, &of.sweep_text)
        });
        let folded = distinct(sweeps)
            .into_iter()
            .map(|(sweep, revision, text)| Folded {
                title: format!("{sweep}, version {revision}"),
                text: text.trim_end().to_owned(),
            });
        folded.collect()
    }

    fn provenance(&self) -> Vec<String> {
        let lines = self.saes.iter().flat_map(|Listed { sae, public, .. }| {
            let of = &sae.provenance;
            let run_by = of.sae_run.as_deref().unwrap_or("unknown");
            let commit = of
                .git_commit
                .as_ref()
                .map(|id| format!(", at commit {id} of its folder"));
            let on = [&of.libtorch, &of.device].map(|part| part.as_deref().unwrap_or("unknown"));
            [
                format!(
                    "sweep {}, version {}, run by sae-run {run_by}{}; recipe {}, BLAKE3 {}",
                    sae.result.sweep,
                    of.revision,
                    commit.unwrap_or_default(),
                    public.recipe,
                    of.recipe_digest
                ),
                format!(
                    "model {}, BLAKE3 of its files {}",
                    public.model, of.model_digest
                ),
                format!(
                    "data {}, BLAKE3 of its tokens {}",
                    public.dataset, of.token_digest
                ),
                format!("libtorch {} on {}", on[0], on[1]),
            ]
        });
        distinct(lines)
    }
}

/// Each once, in the order of the first.
fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

fn row(listed: &Listed) -> Row<'_> {
    let result = &listed.sae.result;
    let layouts = listed.places.keys().map(|layout| layout.name());
    let held_out = |eval: Option<f64>, train: Option<f64>, digits| match eval {
        Some(_) => number(eval, digits),
        None => format!("{}\\*", number(train, digits)),
    };
    Row {
        folder: listed.folder(),
        hookpoint: &result.hookpoint,
        layout: layouts.collect::<Vec<_>>().join(", "),
        d_in: listed.sae.d_in,
        num_latents: result.num_latents,
        k: k_of(&result.kind, result.k),
        fvu: held_out(result.fvu_eval, result.fvu, 4),
        l0: held_out(result.l0_eval, result.l0, 1),
        dead_pct: held_out(result.dead_pct_eval, result.dead_pct, 1),
        ce_recovered: number(result.ce_recovered, 4),
        kl: number(result.kl, 4),
        n_tokens: result.n_tokens,
        kind: &result.kind,
        threshold: result
            .threshold
            .map_or_else(String::new, |threshold| number(Some(threshold), 4)),
    }
}

fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    // Markdown and YAML have their own rules.
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.add_filter("md", |text: String| markdown(&text));
    environment.add_filter("html", |text: String| html(&text));
    environment.add_filter("code", |text: String| code(&text));
    environment.add_filter("sh", |text: String| shell(&text));
    environment.add_filter("tojson", |text: String| json(&text));
    environment.add_filter("fenced", |text: String, language: String| {
        fenced(&text, &language)
    });
    environment.add_template(NAME, include_str!("card.md"))?;
    Ok(environment)
}

/// Text that Markdown takes for nothing else, in one line.
fn markdown(text: &str) -> String {
    let mut escaped = String::new();
    for c in html(text).chars() {
        if "\\`*_[]|#~!".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Text that HTML takes for nothing else, in one line.
fn html(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Code in a cell of a table.
fn code(text: &str) -> String {
    if text.contains(|c: char| "`|\\".contains(c) || c.is_control()) {
        markdown(text)
    } else {
        format!("`{text}`")
    }
}

/// A string of JSON, which is one of Python and of YAML, too.
pub(super) fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a string serialises")
}

/// A text as one argument in a shell.
fn shell(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-=+,/".contains(c);
    if text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// A block of code, whose fence is longer than any in it.
fn fenced(text: &str, language: &str) -> String {
    let runs = text.split(|c| c != '`').map(str::len);
    let fence = "`".repeat(runs.max().unwrap_or(0).max(2) + 1);
    format!("{fence}{language}\n{text}\n{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_text() {
        assert_eq!(markdown("a|b*<i>"), "a\\|b\\*&lt;i&gt;");
        assert_eq!(markdown("a\nb"), "a b");
        assert_eq!(html("a*<b>"), "a*&lt;b&gt;");
        assert_eq!(code("layers.0"), "`layers.0`");
        assert_eq!(code("a`b"), "a\\`b");
        assert_eq!(shell("k=4/layers.0"), "k=4/layers.0");
        assert_eq!(shell("it's"), "'it'\\''s'");
        assert_eq!(json("a\"b"), "\"a\\\"b\"");
        assert_eq!(fenced("x = '```'", "toml"), "````toml\nx = '```'\n````");
    }
}
