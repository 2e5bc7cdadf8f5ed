//! The script of a job: what Slurm is asked for, and how the worker is started, stopped and begun again.

use super::partition::Partition;
use super::sign_of_life::FILE;
use crate::run::worker_program::WorkerProgram;
use plan::{Launch, MemoryEstimate, shell_word};
use std::fmt::Write;
use std::path::Path;

/// Its name in the stream's folder.
pub(crate) const SCRIPT: &str = "slurm.sh";

/// What a stream's job is made of.
pub(crate) struct Script<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// The stream's folder.
    pub(crate) dir: &'a Path,
    /// Its order.
    pub(crate) order: &'a Path,
    /// What it prints.
    pub(crate) log: &'a Path,
    pub(crate) launch: &'a Launch,
    pub(crate) partition: &'a Partition,
    /// What each process is predicted to take of its device.
    pub(crate) memory: &'a MemoryEstimate,
    pub(crate) program: &'a WorkerProgram,
}

impl Script<'_> {
    /// The script.
    pub(crate) fn text(&self) -> String {
        let mut text = "#!/bin/bash\n".to_owned();
        for (key, value) in self.options() {
            let line = match value {
                Some(value) => writeln!(text, "#SBATCH --{key}={value}"),
                None => writeln!(text, "#SBATCH --{key}"),
            };
            line.expect("a text takes all");
        }
        let worker = self.program.words();
        let worker: Vec<_> = worker
            .iter()
            .map(|word| shell_word(&word.to_string_lossy()))
            .collect();
        let (n_here, slurm) = (self.n_here(), &self.launch.slurm);
        let start = match n_here * slurm.nnodes {
            1 => r#""${worker[@]}" order "$order" --batch &"#.to_owned(),
            n_ranks => format!(
                r#"export MASTER_ADDR=$(hostname) MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
# Another program may listen there.
while (exec 3<>"/dev/tcp/localhost/$MASTER_PORT") 2>/dev/null; do MASTER_PORT=$((MASTER_PORT + 1)); done
[[ $SLURM_CPUS_PER_TASK ]] && export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
srun --ntasks={n_ranks} --kill-on-bad-exit=0 "${{worker[@]}}" order "$order" --batch &"#
            ),
        };
        text + &format!(
            r##"
# Written by sae-run, which does not read it back. A worker trains the order of this stream; Slurm may begin this script
# again at any time, and the worker then continues from its last checkpoints.
cd {dir} || exit 2
restarts=${{SLURM_RESTART_COUNT:-0}}
echo "$SLURM_JOB_ID $restarts $(hostname) $(date +%s)" >{FILE}.$$ && mv {FILE}.$$ {FILE}
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
{setup}
worker=({worker})
order=$("${{worker[@]}}" requeued {order} "$restarts") || exit
{start}
pid=$!

# Slurm sends USR1 before the time limit, and TERM if a job with precedence takes the machine. The worker then saves.
is_limit=
trap 'is_limit=1; kill -USR1 $pid 2>/dev/null' USR1
trap 'kill -USR1 $pid 2>/dev/null' TERM
while kill -0 $pid 2>/dev/null; do wait $pid; done
wait $pid
code=$?
# 130: it was asked to stop, and has saved.
if [[ $is_limit && $code == 130 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
"##,
            dir = shell_word(&self.dir.to_string_lossy()),
            order = shell_word(&self.order.to_string_lossy()),
            setup = slurm.setup.join("\n"),
            worker = worker.join(" "),
        )
    }

    /// The options of sbatch.
    fn options(&self) -> Vec<(String, Option<String>)> {
        let (slurm, n_here) = (&self.launch.slurm, self.n_here());
        let n_tasks = n_here * slurm.nnodes;
        // Slurm puts numbers in for such signs.
        let log = self.log.to_string_lossy().replace('%', "%%");
        let mut options = vec![
            ("job-name", Some(self.name.to_owned())),
            ("output", Some(quoted_for_slurm(&log))),
            ("open-mode", Some("append".to_owned())),
            ("requeue", None),
            ("signal", Some(format!("B:USR1@{}", slurm.signal_s))),
            ("nodes", Some(slurm.nnodes.to_string())),
            ("ntasks", Some(n_tasks.to_string())),
        ];
        if n_tasks > 1 {
            options.push(("ntasks-per-node", Some(n_here.to_string())));
        }
        if slurm.cpus_per_task > 0 {
            options.push(("cpus-per-task", Some(slurm.cpus_per_task.to_string())));
        }
        if slurm.gres.is_none() && self.is_on_gpu() {
            options.push(("gres", Some(format!("gpu:{n_here}"))));
        }
        if slurm.mem.is_none() && self.partition.most_bytes.is_some() {
            options.push((
                "mem",
                Some(format!("{}M", self.host_bytes().div_ceil(1 << 20))),
            ));
        }
        let is_none = |(key, value): &(&str, &str)| *key == "mem" && *value == "none";
        let named = slurm.named().filter(|option| !is_none(option));
        let others = slurm.sbatch.iter();
        let others = others.map(|(key, value)| (key.as_str(), value.as_str()));
        let given = named.chain(others).map(|(key, value)| {
            let value = (!value.is_empty()).then(|| value.to_owned());
            (key.to_owned(), value)
        });
        let own = options
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value));
        own.chain(given).collect()
    }

    fn n_here(&self) -> usize {
        self.launch.slurm.n_processes(self.launch.nproc_per_node)
    }

    /// Whether its processes compute on GPUs.
    fn is_on_gpu(&self) -> bool {
        match self.launch.device.as_str() {
            "auto" => self.partition.has_gpus || self.launch.slurm.n_gpus().is_some(),
            device => device.starts_with("cuda"),
        }
    }

    /// Memory of a machine.
    fn host_bytes(&self) -> u64 {
        let of_process = self.memory.machine_bytes(self.is_on_gpu());
        of_process.saturating_mul(self.n_here() as u64)
    }
}

/// A value as sbatch takes it in a script.
fn quoted_for_slurm(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+,:@%".contains(c);
    if value.chars().all(is_plain) {
        value.to_owned()
    } else {
        format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::Nproc;
    use std::process::Command;

    fn partition(most_bytes: Option<u64>, has_gpus: bool) -> Partition {
        Partition {
            name: "main".into(),
            most_bytes,
            has_gpus,
            limit_s: None,
        }
    }

    fn text_of(launch: &Launch, partition: &Partition, dir: &str) -> String {
        let dir = Path::new(dir);
        let memory = MemoryEstimate {
            model_bytes: 2 << 30,
            ..MemoryEstimate::default()
        };
        let program = WorkerProgram::at("/opt/sae run/sae-run-worker".into());
        Script {
            name: "sae-run.s",
            dir,
            order: &dir.join("order.json"),
            log: &dir.join("worker.log"),
            launch,
            partition,
            memory: &memory,
            program: &program,
        }
        .text()
    }

    /// Whether bash can read it.
    fn check_syntax(text: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let bash = Command::new("bash").arg("-n").arg(file.path()).status();
        assert!(bash.unwrap().success(), "{text}");
    }

    #[test]
    fn a_job_asks_for_what_the_plan_predicts() {
        let launch = Launch {
            nproc_per_node: Nproc::Count(4),
            ..Launch::default()
        };
        let text = text_of(&launch, &partition(Some(1 << 40), true), "/runs/s");
        check_syntax(&text);
        for line in [
            "#SBATCH --nodes=1",
            "#SBATCH --ntasks=4",
            "#SBATCH --ntasks-per-node=4",
            "#SBATCH --gres=gpu:4",
            "#SBATCH --mem=23451M",
            "#SBATCH --signal=B:USR1@120",
            "#SBATCH --output=/runs/s/worker.log",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.contains("srun --ntasks=4 "), "{text}");
        let text = text_of(&Launch::default(), &partition(None, false), "/runs/s");
        check_syntax(&text);
        for absent in ["--mem", "--gres", "srun", "--time"] {
            assert!(!text.contains(absent), "{absent}: {text}");
        }
    }

    #[test]
    fn what_is_given_is_asked_for_and_any_folder_is_one_word() {
        let mut launch = Launch::default();
        launch.slurm.partition = Some("gpu".into());
        launch.slurm.mem = Some("none".into());
        launch.slurm.setup = vec!["module load cuda".into()];
        launch.slurm.sbatch = [("exclusive".to_owned(), String::new())].into();
        let odd = "/runs/it's 100% \"mine\"/$HOME";
        let text = text_of(&launch, &partition(Some(1 << 40), false), odd);
        check_syntax(&text);
        assert!(text.contains("#SBATCH --partition=gpu\n"), "{text}");
        assert!(text.contains("#SBATCH --exclusive\n"), "{text}");
        assert!(!text.contains("--mem"), "{text}");
        assert!(text.contains("\nmodule load cuda\n"), "{text}");
        assert!(
            text.contains(r#"cd '/runs/it'\''s 100% "mine"/$HOME' ||"#),
            "{text}"
        );
        assert!(
            text.contains(r#"--output="/runs/it's 100%% \"mine\"/$HOME/worker.log""#),
            "{text}"
        );
        assert!(
            text.contains("worker=('/opt/sae run/sae-run-worker')"),
            "{text}"
        );
    }
}
