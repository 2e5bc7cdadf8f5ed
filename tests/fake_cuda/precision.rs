//! What `dtype = "auto"` becomes, as a worker's log says: by the checkpoint, on a CPU and on GPUs of two kinds.

use super::{ON_DEVICE, command, worker_logs};
use crate::bad_model::{edit_config, with_model};
use crate::common::{Workspace, finish};
use serde_json::json;

/// Without instructions for bfloat16, and with them.
const CAPABILITIES: [&str; 2] = ["75", "90"];

fn checkpoint_in(stored: &str) -> Workspace {
    let workspace = with_model();
    edit_config(&workspace, "dtype", json!(stored));
    workspace
}

#[track_caller]
fn check(workspace: &Workspace, computed_in: &str) {
    let log = worker_logs(workspace);
    let expected = format!("blocks in {computed_in}, linear weights of");
    assert!(log.contains(&expected), "no `{expected}`: {log}");
}

#[track_caller]
fn on_gpus(stored: &str, settings: &[&str], computed_in: &str) {
    for capability in CAPABILITIES {
        let workspace = checkpoint_in(stored);
        let args = [&ON_DEVICE[..], settings].concat();
        let mut command = command(&workspace, "log", &args);
        command.env("FAKE_CUDA_CAPABILITY", capability);
        finish(command).succeeds();
        check(&workspace, computed_in);
    }
}

#[test]
fn a_gpu_of_any_capability_computes_in_what_the_checkpoint_is_in() {
    on_gpus("bfloat16", &[], "BFloat16");
    on_gpus("float32", &[], "Float");
}

#[test]
fn in_8_bit_a_gpu_computes_in_float16() {
    on_gpus("bfloat16", &["--set", "train.load_in_8bit=true"], "Half");
}

/// That a CPU may take bfloat16 is for a test of the model's crate, which knows when.
#[test]
fn a_cpu_computes_in_float32() {
    for settings in [&[][..], &["--set", "train.load_in_8bit=true"]] {
        let workspace = checkpoint_in("float16");
        let args = [&["tiny.toml"][..], settings].concat();
        workspace.run(&args).succeeds();
        check(&workspace, "Float");
    }
}
