//! Files for clusters that `plan --manifest` prints: read back, and the script run as Slurm would run it.

use crate::common::{
    Outcome, Running, Workspace, finish, replace_line, signal, small_sweep, until,
};
use crate::slurm::{Cluster, long_job};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// The folder of the project.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the demo's sweep needs of its model.
const SMOL_LM: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576,
    "intermediate_size": 1536, "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
    "vocab_size": 49152, "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000.0,
    "hidden_act": "silu", "tie_word_embeddings": true, "torch_dtype": "bfloat16"}"#;

/// A folder with the demo's sweep and the shapes of its model.
fn with_demo() -> Workspace {
    let workspace = Workspace::new();
    let demo = fs::read(root().join("sweeps/demo.toml")).unwrap();
    workspace.write("sweeps/demo.toml", demo);
    workspace.write("cache/models/SmolLM2-135M-Instruct/config.json", SMOL_LM);
    workspace
}

fn manifest(workspace: &Workspace, sweep: &str, args: &[&str]) -> String {
    let args = [&["plan", sweep, "--quiet", "--manifest"], args].concat();
    workspace.run(&args).succeeds().stdout
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The value of an option in an sbatch script.
fn sbatch_option<'t>(script: &'t str, name: &str) -> Option<&'t str> {
    let prefix = format!("#SBATCH --{name}=");
    script.lines().find_map(|line| line.strip_prefix(&prefix))
}

#[test]
fn the_examples_are_what_is_printed_for_the_demo() {
    let workspace = with_demo();
    for (system, name, more) in [
        ("slurm", "slurm.sbatch", &["--device", "cpu"][..]),
        ("skypilot", "skypilot.yaml", &[]),
        (
            "jobset",
            "jobset.yaml",
            &["--nodes", "2", "--set", "train.batch_size=4"],
        ),
    ] {
        let printed = manifest(&workspace, "sweeps/demo.toml", &[&[system], more].concat());
        let path = root().join("docs/clusters").join(name);
        let kept = fs::read_to_string(&path).unwrap();
        let update = format!(
            "`make` it again: the command is in its second line, into {}",
            path.display()
        );
        assert_eq!(printed, kept, "{update}");
    }
}

/// A sweep that eight processes train on two nodes.
fn on_two_nodes(device: &str) -> Workspace {
    let workspace = with_demo();
    workspace.write(
        "big.toml",
        format!(
            "name = 'Big_layers.2'\n[train]\nmodel = 'SmolLM2-135M-Instruct'\ndataset = 'org/texts'\n\
             max_examples = 100_000\nhookpoints = ['layers.10']\n[launch]\nlauncher = 'torchrun'\n\
             nproc_per_node = 4\nthreads = 3\ndevice = '{device}'\n"
        ),
    );
    workspace
}

#[test]
fn an_sbatch_script_has_what_the_plan_needs() {
    let workspace = on_two_nodes("cuda");
    let args = ["slurm", "--nodes", "2", "--set", "train.k=16"];
    let script = manifest(&workspace, "big.toml", &args);
    let option = |name| sbatch_option(&script, name).unwrap_or_default();
    assert_eq!(option("job-name"), "Big_layers.2");
    assert_eq!((option("nodes"), option("ntasks-per-node")), ("2", "4"));
    assert_eq!(
        (option("cpus-per-task"), option("gpus-per-node")),
        ("3", "4")
    );
    assert_eq!(option("signal"), "B:USR1@120");
    assert_eq!(option("open-mode"), "append");
    assert!(script.contains("\n#SBATCH --requeue\n"));
    let command = "\nsrun --cpus-per-task=3 sae-run big.toml --set train.k=16 &\n";
    assert!(script.contains(command), "{script}");
    let memory = option("mem").strip_suffix('G').unwrap();
    let memory: u64 = memory.parse().unwrap();
    assert!(memory > 4 * 4 && memory < 4 * 20, "{memory}");
    check_syntax(&workspace, &script);
    let alone = manifest(&on_two_nodes("cpu"), "big.toml", &["slurm"]);
    assert_eq!(sbatch_option(&alone, "gpus-per-node"), None);
    assert_eq!(sbatch_option(&alone, "nodes"), Some("1"));
}

fn check_syntax(workspace: &Workspace, script: &str) {
    workspace.write("job.sbatch", script);
    let mut bash = Command::new("bash");
    bash.args(["-n", "job.sbatch"])
        .current_dir(workspace.path("."));
    finish(bash).succeeds();
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let path = workspace.path("job.sbatch");
    // Of what a plan needs, as much as the cluster has.
    let fewer = [
        "--mem=0",
        "--gpus-per-node=0",
        "--cpus-per-task=1",
        "--ntasks-per-node=1",
    ];
    let args = [&["--test-only"], &fewer[..], &[path.to_str().unwrap()]].concat();
    cluster.slurm("sbatch", &args);
}

/// Two ranks on two nodes, by srun: a real preemption, and the end.
#[test]
fn the_script_is_submitted_preempted_and_continued() {
    let Some(cluster) = Cluster::new() else {
        return;
    };
    let workspace = long_job();
    let script = manifest(
        &workspace,
        "tiny.toml",
        &["slurm", "--nodes", "2", "--device", "cpu"],
    );
    let script = script.replace("--cpus-per-task=8", "--cpus-per-task=1");
    workspace.write("job.sbatch", script);
    let path = std::env::var("PATH").unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_sae-run"));
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let mut sbatch = workspace.command_of(
        Path::new("sbatch"),
        &["--parsable", "--mem=0", "job.sbatch"],
    );
    sbatch
        .env("PATH", path)
        .env("SLURM_CONF", cluster.conf())
        // The nodes are names only.
        .env("MASTER_ADDR", "127.0.0.1");
    let job_id = finish(sbatch).succeeds().stdout;
    let job_id: u64 = job_id.trim().parse().unwrap();
    until("an update", || {
        let has_begun = workspace.path("runs/tiny/.streams").exists();
        let is_metric = |event: &Value| event["event"] == "metric";
        (has_begun && workspace.events().iter().any(is_metric)).then_some(())
    });
    cluster.preempt();
    cluster.hurry(job_id);
    until("the end of the job", || {
        let job = cluster.slurm("scontrol", &["show", "job", &job_id.to_string()]);
        assert!(!job.contains("JobState=FAILED"), "{job}");
        job.contains("JobState=COMPLETED").then_some(())
    });
    let attempts = workspace.sql("SELECT status FROM attempt ORDER BY number");
    assert_eq!(
        json!(attempts),
        json!([{"status": "interrupted"}, {"status": "done"}])
    );
    assert!(workspace.stream_dir().join("worker.1.log").exists());
}

#[test]
fn a_task_of_skypilot_has_what_the_plan_needs() {
    let workspace = on_two_nodes("auto");
    let args = ["skypilot", "--nodes", "2", "--set", "vary.k=[8, 16]"];
    let task = yaml(&manifest(&workspace, "big.toml", &args));
    assert_eq!(task["name"], "big-layers-2");
    assert_eq!(task["num_nodes"], 2);
    let resources = &task["resources"];
    assert_eq!(resources["cpus"], "12+");
    assert_eq!(resources["use_spot"], true);
    let gpus = resources["accelerators"].as_object().unwrap();
    assert!(gpus.contains_key("L4:4"), "{gpus:?}");
    assert_eq!(
        task["run"],
        "sae-run big.toml --set 'vary.k=[8, 16]' --runs-dir /sae-run/runs\n"
    );
    assert_eq!(task["volumes"], json!({"/sae-run": "sae-run"}));
    let on_cpu = manifest(&workspace, "big.toml", &["skypilot", "--device", "cpu"]);
    let on_cpu = yaml(&on_cpu);
    assert_eq!(on_cpu["resources"].get("accelerators"), None);
    assert_eq!(on_cpu["num_nodes"], 1);
}

#[test]
fn a_jobset_has_what_the_plan_needs() {
    let workspace = on_two_nodes("auto");
    let args = ["jobset", "--nodes", "2", "--runs-dir", "/results of/all"];
    let jobset = yaml(&manifest(&workspace, "big.toml", &args));
    assert_eq!(jobset["apiVersion"], "jobset.x-k8s.io/v1alpha2");
    let name = jobset["metadata"]["name"].as_str().unwrap();
    assert_eq!(name, "big-layers-2");
    assert_eq!(jobset["spec"]["network"]["enableDNSHostnames"], true);
    let job = &jobset["spec"]["replicatedJobs"][0]["template"]["spec"];
    assert_eq!(job["completionMode"], "Indexed");
    assert_eq!(
        (&job["completions"], &job["parallelism"]),
        (&json!(2), &json!(2))
    );
    let container = &job["template"]["spec"]["containers"][0];
    assert_eq!(
        container["command"],
        json!(["sae-run", "big.toml", "--runs-dir", "/results of/all"])
    );
    let variables = container["env"].as_array().unwrap();
    let variable = |name: &str| {
        let found = variables.iter().find(|variable| variable["name"] == name);
        found.unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(variable("PET_NNODES")["value"], "2");
    assert_eq!(variable("PET_NPROC_PER_NODE")["value"], "4");
    let host = format!("{name}-node-0-0.{name}");
    assert_eq!(variable("PET_MASTER_ADDR")["value"], host.as_str());
    let index = &variable("PET_NODE_RANK")["valueFrom"]["fieldRef"]["fieldPath"];
    assert_eq!(
        index,
        "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    );
    let resources = &container["resources"];
    assert_eq!(resources["limits"]["nvidia.com/gpu"], "4");
    assert_eq!(resources["requests"]["cpu"], "12");
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert_eq!(mounts.len(), 2, "also shared memory: {mounts:?}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let workspace = with_demo();
    let run = |args: &[&str]| workspace.run(&[&["plan", "sweeps/demo.toml"], args].concat());
    run(&["--nodes", "2"]).exits(2);
    run(&["--manifest", "lsf"]).exits(2);
    run(&["--manifest", "slurm", "--json"]).exits(2);
    run(&["--manifest", "slurm", "--set", "launch.launcher=slurm"])
        .refuses(&["`launcher` is `slurm`, which submits its own jobs"])
        .hints("--set launch.launcher=local");
}

/// Runs the script of the small sweep as Slurm's batch step, with a `scontrol` that notes what it is asked.
fn run_script(workspace: &Workspace, signals: &[&str]) -> (Outcome, bool) {
    let script = manifest(workspace, "tiny.toml", &["slurm", "--device", "cpu"]);
    workspace.write("job.sbatch", script);
    workspace.write("bin/scontrol", "#!/bin/sh\necho \"$@\" > requeued.txt\n");
    let scontrol = workspace.path("bin/scontrol");
    fs::set_permissions(&scontrol, fs::Permissions::from_mode(0o755)).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_sae-run"));
    let folders = [&workspace.path("bin"), program.parent().unwrap()];
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{}:{path}", folders[0].display(), folders[1].display());
    let mut command = workspace.command_of(Path::new("bash"), &["job.sbatch"]);
    command.env("PATH", path).env("SLURM_JOB_ID", "17");
    let n_metrics = || {
        if !workspace.path("runs/tiny").exists() {
            return 0;
        }
        let is_metric = |event: &&Value| event["event"] == "metric";
        workspace.events().iter().filter(is_metric).count()
    };
    let n_before = n_metrics();
    let file = |name: &str| workspace.path(name);
    let running = Running::start(command, file("stdout.txt"), file("stderr.txt"));
    if !signals.is_empty() {
        until("an update", || (n_metrics() > n_before).then_some(()));
    }
    for name in signals {
        signal(running.pid(), name);
    }
    let outcome = running.wait();
    let requeued = fs::read_to_string(workspace.path("requeued.txt"));
    let is_requeued = requeued.is_ok_and(|asked| asked == "requeue 17\n");
    (outcome, is_requeued)
}

#[test]
fn the_script_saves_and_is_requeued_before_the_time_limit() {
    let workspace = Workspace::new();
    let long = replace_line(&small_sweep(), "max_examples", "max_examples = 640");
    workspace.write("tiny.toml", long);
    let (stopped, is_requeued) = run_script(&workspace, &["USR1"]);
    stopped.exits(130).remarks(&["stopping after a checkpoint"]);
    assert!(is_requeued);
    fs::remove_file(workspace.path("requeued.txt")).unwrap();
    // A preemption: Slurm requeues by itself, and may send the same signal to both.
    let (preempted, is_requeued) = run_script(&workspace, &["TERM", "TERM"]);
    preempted.exits(130);
    assert!(!is_requeued);
    let (done, is_requeued) = run_script(&workspace, &[]);
    done.succeeds().remarks(&["all 2 jobs are done"]);
    assert!(!is_requeued);
    let attempts = workspace.sql("SELECT status FROM attempt ORDER BY number");
    let statuses: Vec<_> = attempts.iter().map(|row| row["status"].as_str()).collect();
    let expected = ["interrupted", "interrupted", "done"].map(Some);
    assert_eq!(statuses, expected);
}

#[test]
fn the_script_ends_with_the_exit_code_of_a_sweep_that_is_wrong() {
    let workspace = Workspace::with_small_sweep();
    let script = manifest(&workspace, "tiny.toml", &["slurm", "--device", "cpu"]);
    assert!(
        script.contains("sae-run tiny.toml --device cpu &"),
        "{script}"
    );
    workspace.write(
        "job.sbatch",
        script.replace("--device cpu", "--set train.k_of=1"),
    );
    let program = Path::new(env!("CARGO_BIN_EXE_sae-run"));
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let mut command = workspace.command_of(Path::new("bash"), &["job.sbatch"]);
    command.env("PATH", path);
    finish(command).exits(2);
}
