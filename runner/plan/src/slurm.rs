//! How streams are given to Slurm: the table `[launch.slurm]`.

use crate::Nproc;
use fault::Fault;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What each job of Slurm asks for. A stream is one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Slurm {
    /// Jobs in the queue or running at the same time; 0: all streams.
    pub max_jobs: usize,
    /// Machines of a job; `launch.nproc_per_node` processes run on each.
    pub nnodes: usize,
    /// Partition; by default the cluster's.
    pub partition: Option<String>,
    /// Account that is charged.
    pub account: Option<String>,
    /// Quality of service.
    pub qos: Option<String>,
    /// Features that a machine must have, such as `a100&nvlink`.
    pub constraint: Option<String>,
    /// Time limit, such as `8:00:00`; by default the partition's.
    pub time: Option<String>,
    /// Generic resources of a machine, such as `gpu:a100:4`; by default a GPU for each process if `launch.device` says
    /// `cuda`, or `auto` in a partition with GPUs.
    pub gres: Option<String>,
    /// Memory of a machine, such as `64G`, or `none`: Slurm's default. By default what the plan predicts, where the
    /// cluster shares out memory.
    pub mem: Option<String>,
    /// Processors of a process; 0: Slurm's default.
    pub cpus_per_task: usize,
    /// Seconds between two looks into Slurm's queue.
    pub poll_s: u64,
    /// Seconds before the time limit at which a worker saves and its job is put back into the queue.
    pub signal_s: u64,
    /// Lines of bash before the worker starts, such as `module load cuda`. Not in a sweep file, which may come from anyone.
    #[schemars(skip)]
    pub setup: Vec<String>,
    /// Any other option of sbatch, such as `mail-user = "me@lab.org"`. Not in a sweep file, which may come from anyone.
    #[schemars(skip)]
    pub sbatch: BTreeMap<String, String>,
}

impl Default for Slurm {
    fn default() -> Self {
        Self {
            max_jobs: 0,
            nnodes: 1,
            partition: None,
            account: None,
            qos: None,
            constraint: None,
            time: None,
            gres: None,
            mem: None,
            cpus_per_task: 0,
            poll_s: 15,
            signal_s: 120,
            setup: Vec::new(),
            sbatch: BTreeMap::new(),
        }
    }
}

/// Settings of `launch.slurm` that have code run, or could.
pub const RUN_CODE: [&str; 2] = ["setup", "sbatch"];

/// Options of sbatch that the program sets itself, or that make another kind of job.
const OWN: [&str; 18] = [
    "array",
    "chdir",
    "error",
    "export",
    "export-file",
    "gres",
    "input",
    "job-name",
    "nodes",
    "no-requeue",
    "ntasks",
    "ntasks-per-node",
    "open-mode",
    "output",
    "parsable",
    "requeue",
    "signal",
    "wrap",
];

/// Machines of a job, at most: above any use.
const MOST_NODES: usize = 4096;

impl Slurm {
    /// Options of sbatch that were given by name, in the order of a script.
    pub fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        [
            ("partition", &self.partition),
            ("account", &self.account),
            ("qos", &self.qos),
            ("constraint", &self.constraint),
            ("time", &self.time),
            ("gres", &self.gres),
            ("mem", &self.mem),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// A value that would end its line in a script, an option that is not for the user, a time that Slurm cannot read.
    pub fn check(&self) -> Result<(), Fault> {
        let others = self.sbatch.iter();
        let others = others.map(|(key, value)| (key.as_str(), value.as_str()));
        for (key, value) in self.named().chain(others) {
            let is_plain = |c: char| c.is_ascii_graphic() && !"\"'`\\#".contains(c);
            if !value.chars().all(is_plain) {
                let message = format!("`launch.slurm` has {key} = {value:?}");
                let hint = "a value has no spaces, quotes, `#` or backslashes";
                return Err(Fault::input(message).with_hint(hint));
            }
        }
        for key in self.sbatch.keys() {
            check_option(key)?;
        }
        if !(1..=MOST_NODES).contains(&self.nnodes) {
            let message = format!("`launch.slurm.nnodes` is {}", self.nnodes);
            let hint = format!("a job has from 1 to {MOST_NODES} machines");
            return Err(Fault::input(message).with_hint(hint));
        }
        match (&self.time, self.time_s()) {
            (Some(time), None) => Err(Fault::input(format!("`launch.slurm.time` is `{time}`"))
                .with_hint("write minutes, or `HH:MM:SS`, or `D-HH:MM:SS`, such as `8:00:00`")),
            (Some(time), Some(limit_s)) if limit_s <= self.signal_s => Err(Fault::input(format!(
                "`launch.slurm.time` is `{time}`, and a worker is asked to save {} s before that",
                self.signal_s
            ))
            .with_hint("set a longer `time`, or a smaller `launch.slurm.signal_s`")),
            _ => Ok(()),
        }
    }

    /// Processes on each machine: those that were asked for, or one for each GPU.
    pub fn n_processes(&self, nproc: Nproc) -> usize {
        match nproc {
            Nproc::Count(count) => count,
            Nproc::Gpu => self.n_gpus().unwrap_or(1),
        }
    }

    /// The GPUs of a machine that `gres` asks for: 4 of `gpu:a100:4`. `None`: it asks for none.
    pub fn n_gpus(&self) -> Option<usize> {
        let mut all = self.gres.as_deref()?.split(',');
        let gpu = all.find(|one| *one == "gpu" || one.starts_with("gpu:"))?;
        let last = gpu.rsplit(':').next().and_then(|count| count.parse().ok());
        Some(last.unwrap_or(1))
    }

    /// The time limit that was given, in seconds.
    pub fn time_s(&self) -> Option<u64> {
        slurm_seconds(self.time.as_deref()?)
    }
}

fn check_option(key: &str) -> Result<(), Fault> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if key.is_empty() || key.starts_with('-') || !key.chars().all(is_name) {
        let message = format!("`launch.slurm.sbatch` has the option `{key}`");
        let hint = "write it as sbatch does, without the dashes before it, such as `mail-user`";
        return Err(Fault::input(message).with_hint(hint));
    }
    if OWN.contains(&key) {
        let message = format!("`launch.slurm.sbatch` has `{key}`, which `sae-run` sets");
        let hint = match key {
            "gres" => "write `gres` in `launch.slurm`",
            "nodes" => "write `nnodes` in `launch.slurm`",
            "ntasks" | "ntasks-per-node" => "write `nproc_per_node` in `launch`",
            "signal" => "write `signal_s` in `launch.slurm`",
            _ => "leave it out",
        };
        return Err(Fault::input(message).with_hint(hint));
    }
    Ok(())
}

/// Seconds of a time as Slurm reads and prints it: `M`, `M:S`, `H:M:S`, `D-H`, `D-H:M`, `D-H:M:S`.
pub fn slurm_seconds(time: &str) -> Option<u64> {
    let (days, rest) = match time.split_once('-') {
        Some((days, rest)) => (Some(days.parse::<u64>().ok()?), rest),
        None => (None, time),
    };
    let parts: Option<Vec<u64>> = rest.split(':').map(|part| part.parse().ok()).collect();
    let (hours, minutes, seconds) = match (days, parts?.as_slice()) {
        (None, &[minutes]) => (0, minutes, 0),
        (None, &[minutes, seconds]) => (0, minutes, seconds),
        (Some(_), &[hours]) => (hours, 0, 0),
        (Some(_), &[hours, minutes]) => (hours, minutes, 0),
        (_, &[hours, minutes, seconds]) => (hours, minutes, seconds),
        _ => return None,
    };
    let hours = days.unwrap_or(0).checked_mul(24)?.checked_add(hours)?;
    let minutes = hours.checked_mul(60)?.checked_add(minutes)?;
    minutes.checked_mul(60)?.checked_add(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_slurm_reads_them() {
        for (time, expected) in [
            ("90", Some(5400)),
            ("1:30", Some(90)),
            ("8:00:00", Some(28_800)),
            ("1-0", Some(86_400)),
            ("1-2:30", Some(95_400)),
            ("2-00:00:01", Some(172_801)),
            ("", None),
            ("soon", None),
            ("1:2:3:4", None),
            ("-5", None),
        ] {
            assert_eq!(slurm_seconds(time), expected, "{time}");
        }
    }

    #[test]
    fn a_process_for_each_gpu() {
        let slurm = |gres: &str| Slurm {
            gres: Some(gres.into()),
            ..Slurm::default()
        };
        assert_eq!(Slurm::default().n_processes(Nproc::Gpu), 1);
        for (gres, expected) in [
            ("gpu:4", 4),
            ("gpu:a100:2", 2),
            ("gpu", 1),
            ("nvme:1,gpu:8", 8),
        ] {
            assert_eq!(slurm(gres).n_processes(Nproc::Gpu), expected, "{gres}");
        }
        assert_eq!(slurm("gpu:4").n_processes(Nproc::Count(3)), 3);
        assert_eq!(slurm("nvme:1").n_gpus(), None);
    }

    fn refused(slurm: &Slurm) -> String {
        slurm.check().unwrap_err().to_string()
    }

    #[test]
    fn nothing_ends_its_line_in_a_script_and_nothing_is_said_twice() {
        assert!(Slurm::default().check().is_ok());
        let with = |partition: &str| Slurm {
            partition: Some(partition.into()),
            ..Slurm::default()
        };
        assert!(with("gpu,long").check().is_ok());
        for bad in ["a b", "a\nrm", "a\"", "a#b", "a\\"] {
            assert!(refused(&with(bad)).contains("partition"), "{bad}");
        }
        let option = |key: &str| Slurm {
            sbatch: [(key.to_owned(), "x".to_owned())].into(),
            ..Slurm::default()
        };
        assert!(option("mail-user").check().is_ok());
        for bad in ["wrap", "export", "--mail-user", "", "Mail User"] {
            assert!(refused(&option(bad)).contains(bad), "{bad}");
        }
    }

    #[test]
    fn there_is_time_to_save() {
        let time = |time: &str| Slurm {
            time: Some(time.into()),
            ..Slurm::default()
        };
        assert!(time("10").check().is_ok());
        assert!(refused(&time("2")).contains("120 s before"));
        assert!(refused(&time("soon")).contains("`soon`"));
    }
}
