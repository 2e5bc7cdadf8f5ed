//! What the machines of a partition have, as sinfo says.

use super::programs::output_of;
use crate::error::CliError;
use plan::Slurm;

/// A partition, or all of a cluster's default one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Its name.
    pub(crate) name: String,
    /// Memory of its largest machine, in bytes; `None`: Slurm does not share out memory there.
    pub(crate) most_bytes: Option<u64>,
    /// Whether it has GPUs that Slurm knows of.
    pub(crate) has_gpus: bool,
    /// Its time limit, in seconds; `None`: there is none.
    pub(crate) limit_s: Option<u64>,
}

/// Columns of sinfo: name (with `*` at the default), memory in MB, generic resources, time limit.
const COLUMNS: &str = "%P|%m|%G|%l";

impl Partition {
    /// The one that settings name, else the cluster's default.
    ///
    /// # Errors
    /// There is no Slurm here, or no such partition.
    pub(crate) async fn of(slurm: &Slurm) -> Result<Self, CliError> {
        let text = output_of("sinfo", &["--noheader", "--format", COLUMNS]).await;
        let text = text.map_err(|silence| silence.into_error("sinfo"))?;
        let all = read(&text);
        // Several may be named; Slurm takes the first that is free.
        let wanted = slurm.partition.as_deref().unwrap_or_default();
        let wanted = wanted.split(',').next().unwrap_or_default();
        let is_wanted = |(found, is_default): &&(Self, bool)| {
            found.name == wanted || (wanted.is_empty() && *is_default)
        };
        if let Some((found, _)) = all.iter().find(is_wanted) {
            return Ok(found.clone());
        }
        let names: Vec<_> = all.iter().map(|(found, _)| found.name.as_str()).collect();
        let names = format!("the cluster has {}", names.join(", "));
        Err(if wanted.is_empty() {
            CliError::input("this cluster has no default partition")
                .with_hint(format!("name one in `launch.slurm.partition`: {names}"))
        } else {
            CliError::input(format!("there is no partition `{wanted}`")).with_hint(names)
        }
        .about("launch.slurm.partition".to_owned()))
    }
}

/// The partitions, and whether each is the default.
fn read(text: &str) -> Vec<(Partition, bool)> {
    let mut all: Vec<(Partition, bool)> = Vec::new();
    for line in text.lines() {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [name, memory, gres, limit] = columns[..] else {
            continue;
        };
        let is_default = name.ends_with('*');
        let memory: Option<u64> = memory.trim_end_matches('+').parse().ok();
        let found = Partition {
            name: name.trim_end_matches('*').to_owned(),
            // A machine without a memory in Slurm's settings has 1 MB.
            most_bytes: memory.filter(|mb| *mb > 1).map(|mb| mb << 20),
            has_gpus: gres.split(',').any(|one| one.starts_with("gpu")),
            limit_s: plan::slurm_seconds(limit),
        };
        // Machines of other kinds have a line each.
        match all.iter_mut().find(|(known, _)| known.name == found.name) {
            Some((known, _)) => {
                known.most_bytes = known.most_bytes.max(found.most_bytes);
                known.has_gpus |= found.has_gpus;
            }
            None => all.push((found, is_default)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_read_with_the_most_that_they_have() {
        let text = "main*|1|(null)|infinite\n\
                    gpu|515000+|gpu:a100:8(S:0-1)|2-00:00:00\n\
                    gpu|1031000|gpu:h100:8|2-00:00:00\n";
        let [(main, true), (gpu, false)] = &read(text)[..] else {
            panic!("two partitions");
        };
        assert_eq!(
            (main.most_bytes, main.has_gpus, main.limit_s),
            (None, false, None)
        );
        assert_eq!(gpu.most_bytes, Some(1_031_000 << 20));
        assert_eq!((gpu.has_gpus, gpu.limit_s), (true, Some(172_800)));
    }
}
