//! `sae-run plan --manifest`: a file that runs a sweep on a cluster, with what its plan needs.

use crate::error::CliError;
use crate::run::launch::Processes;
use crate::show::forecast::total_s;
use crate::show::table;
use crate::sweep::config;
use crate::sweep::expand::{self, Expanded};
use crate::sweep::forecast::{Forecast, forecast};
use crate::sweep::paths::Folders;
use args::{ManifestArg, PlanArgs};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use plan::{Launch, Launcher, shell_word};
use serde::Serialize;

/// Cores of a process, if the sweep does not say.
const N_CPUS: usize = 8;
/// An estimate of time may be wrong by this factor.
const TIME_FACTOR: f64 = 3.0;
/// If it is not known how long it takes.
const N_HOURS: u64 = 24;
/// Share of a GPU's memory that may be predicted, in percent.
const GPU_SHARE_PCT: u64 = 90;

/// Kinds of GPUs to choose from, the smallest first.
const MOST_KINDS: usize = 4;

/// GPUs as SkyPilot names them, with their memory in GB.
const GPUS: [(&str, u64); 8] = [
    ("L4", 24),
    ("A10G", 24),
    ("A100", 40),
    ("L40S", 48),
    ("A100-80GB", 80),
    ("H100", 80),
    ("H200", 141),
    ("B200", 180),
];

/// Where results are on clusters whose machines vanish.
const VOLUME_RUNS: &str = "/sae-run/runs";

/// What a template is filled with.
#[derive(Debug, Serialize)]
struct Needs {
    /// The sweep's, which has no blanks.
    name: String,
    /// The same as a name in Kubernetes.
    label: String,
    n_nodes: usize,
    /// Processes on each node.
    n_here: usize,
    n_ranks: usize,
    /// Of a process.
    n_cpus: usize,
    /// Of a node.
    n_gpus: usize,
    /// Kinds that have the memory.
    gpus: Vec<&'static str>,
    /// Of a node, besides that of GPUs.
    memory_gib: u64,
    time: String,
    command: String,
    /// The same as a list in JSON, which is YAML too.
    words: String,
    about: Vec<String>,
}

/// Prints a manifest.
///
/// # Errors
/// Whatever is wrong with the sweep.
pub(crate) async fn print(args: &PlanArgs, kind: ManifestArg) -> Result<u8, CliError> {
    let folders = Folders::of_this_machine()?;
    let mut sweep = config::load(&args.sweep(), &folders)?;
    sweep.sweep.launch.n_nodes = args.nodes.map_or(1, usize::from);
    if sweep.sweep.launch.launcher == Launcher::Slurm {
        let message = "`launcher` is `slurm`, which submits its own jobs, one for each stream";
        let hint = "`--set launch.launcher=local` plans one allocation for the whole sweep";
        let error = CliError::input(message)
            .with_hint(hint.to_owned())
            .about("launch.launcher".to_owned());
        return Err(sweep.locate(error));
    }
    let mut expanded = expand::expand_sweep_plan(sweep, folders)?;
    let processes = Processes::of(&expanded.sweep.sweep.launch)?;
    if !args.quiet {
        processes.note();
    }
    let forecast = forecast(&mut expanded).await?;
    let needs = needs(&expanded, &processes, &forecast, (args, kind));
    table::print(&fill(kind, &needs))
}

fn needs(
    expanded: &Expanded,
    processes: &Processes,
    forecast: &Forecast,
    (args, kind): (&PlanArgs, ManifestArg),
) -> Needs {
    let launch = &expanded.sweep.sweep.launch;
    let streams = &expanded.plan.streams;
    let largest = streams
        .iter()
        .max_by_key(|stream| stream.memory.total_bytes());
    let memory = largest.map(|stream| stream.memory).unwrap_or_default();
    let n_gpus = n_gpus(launch, processes);
    let n_workers = launch.lanes().len().min(streams.len()).max(1);
    let n_bytes = memory.machine_bytes(n_gpus > 0) * (processes.n_here * n_workers) as u64;
    let words = words(args, kind);
    let (n_jobs, n_streams) = (expanded.plan.jobs.len(), streams.len());
    let quoted: Vec<_> = words.iter().map(|word| shell_word(word)).collect();
    let of_what = if n_gpus > 0 { "GPU memory" } else { "memory" };
    Needs {
        name: expanded.plan.sweep.clone(),
        label: label(&expanded.plan.sweep),
        n_nodes: processes.n_ranks / processes.n_here,
        n_here: processes.n_here,
        n_ranks: processes.n_ranks,
        n_cpus: match launch.threads {
            0 => N_CPUS,
            n_threads => n_threads * n_workers,
        },
        n_gpus,
        gpus: gpus_with(memory.total_bytes()),
        memory_gib: n_bytes.div_ceil(1 << 30),
        time: time(forecast),
        command: quoted.join(" "),
        words: json_list(&words),
        about: vec![
            format!(
                "The sweep {}: {} in {}, with at most {} of {of_what} predicted for each process.",
                one_line(&expanded.plan.sweep),
                table::count(n_jobs, "job"),
                table::count(n_streams, "stream"),
                table::bytes(memory.total_bytes()),
            ),
            format!("Made by: {}", one_line(&made_by(args, kind))),
        ],
    }
}

/// GPUs of a node; 0: it trains on the CPU.
fn n_gpus(launch: &Launch, processes: &Processes) -> usize {
    let mut devices = launch.lanes();
    devices.sort();
    devices.dedup();
    devices.retain(|device| device != "cpu");
    devices.len().min(1) * processes.n_here.max(devices.len())
}

/// Kinds of GPUs for this prediction, or the largest.
fn gpus_with(n_bytes: u64) -> Vec<&'static str> {
    let fits = |(_, gb): &&(&str, u64)| n_bytes <= gb * 1_000_000_000 / 100 * GPU_SHARE_PCT;
    let fitting = GPUS.iter().filter(fits).take(MOST_KINDS);
    let names: Vec<_> = fitting.map(|(name, _)| *name).collect();
    if names.is_empty() {
        vec![GPUS[GPUS.len() - 1].0]
    } else {
        names
    }
}

/// A limit that is far above what is expected, in whole hours.
fn time(forecast: &Forecast) -> String {
    let known = forecast.in_all();
    let seconds = known.map(|known| TIME_FACTOR * total_s(forecast, known));
    let n_hours = seconds.map_or(N_HOURS, |seconds| (seconds / 3600.0).ceil() as u64);
    match n_hours.max(1) {
        n_hours @ 0..24 => format!("{n_hours:02}:00:00"),
        n_hours => format!("{}-{:02}:00:00", n_hours / 24, n_hours % 24),
    }
}

/// The command that runs the sweep.
fn words(args: &PlanArgs, kind: ManifestArg) -> Vec<String> {
    let mut words = vec!["sae-run".to_owned()];
    words.extend(args.run_words());
    if kind != ManifestArg::Slurm && !args.names_runs_dir() {
        words.extend(["--runs-dir".to_owned(), VOLUME_RUNS.to_owned()]);
    }
    words
}

/// The command that makes the manifest again.
fn made_by(args: &PlanArgs, kind: ManifestArg) -> String {
    let words = args.run_words();
    let mut words: Vec<_> = words.iter().map(|word| shell_word(word)).collect();
    if let Some(n_nodes) = args.nodes {
        words.push(format!("--nodes {n_nodes}"));
    }
    format!(
        "sae-run plan {} --manifest {}",
        words.join(" "),
        kind.name()
    )
}

fn json_list(words: &[String]) -> String {
    let word = |word| serde_json::to_string(word).expect("a text serialises to JSON");
    let words: Vec<String> = words.iter().map(word).collect();
    format!("[{}]", words.join(", "))
}

/// For a comment.
fn one_line(text: &str) -> String {
    plan::escaped(text)
}

/// A name in Kubernetes: lower case, digits and dashes, and short enough for what JobSet adds.
fn label(name: &str) -> String {
    const MOST_CHARS: usize = 40;
    let plain = name.to_ascii_lowercase();
    let plain = plain.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let plain: String = plain.trim_matches('-').chars().take(MOST_CHARS).collect();
    let plain = plain.trim_matches('-');
    // A label begins with a letter.
    if plain.starts_with(|c: char| c.is_ascii_lowercase()) {
        plain.to_owned()
    } else {
        format!("sweep-{plain}").trim_matches('-').to_owned()
    }
}

fn fill(kind: ManifestArg, needs: &Needs) -> String {
    let template = match kind {
        ManifestArg::Slurm => include_str!("manifest/slurm.sbatch"),
        ManifestArg::Skypilot => include_str!("manifest/skypilot.yaml"),
        ManifestArg::Jobset => include_str!("manifest/jobset.yaml"),
    };
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let filled = environment.render_str(template, Value::from(Serde(needs)));
    let filled = filled.expect("the templates use what they are given");
    // Filling takes the last line's end.
    filled + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_a_cluster() {
        assert_eq!(label("My.Sweep_2"), "my-sweep-2");
        assert_eq!(label("2-layers"), "sweep-2-layers");
        assert_eq!(label("__"), "sweep");
        assert_eq!(label(&"a".repeat(90)).len(), 40);
    }

    #[test]
    fn gpus_are_those_with_the_memory() {
        assert_eq!(gpus_with(1 << 30), ["L4", "A10G", "A100", "L40S"]);
        assert_eq!(gpus_with(60 << 30), ["A100-80GB", "H100", "H200", "B200"]);
        assert_eq!(gpus_with(1 << 40), ["B200"]);
    }
}
