//! The names of everything in a runs folder. Paths are relative to it.
//!
//! ```text
//! runs/runs.db                       the database
//! runs/.locks/<job or stream>        held by the `sae-run` that works on the job or stream
//! runs/.pool/                        streams that wait for machines: `pool.rs`
//! runs/trackers/                     what `log_to` writes for TensorBoard, Weights & Biases and MLflow
//! runs/<sweep>/<job>/                config.json and a folder per SAE: what sparsify loads
//! runs/<sweep>/.state/<job>/         what a resume needs; when the job is done, at most `kept` is left
//! runs/<sweep>/.best/<job>/          the SAEs with the lowest loss
//! runs/<sweep>/.eval/<job>/          a file per SAE: the firing density of its latents
//! runs/<sweep>/.streams/<stream>/    order.json, events.jsonl, worker.log, worker.lock
//! ```
//!
//! What sparsify does not load is outside the job's folder: sparsify takes every folder in there for an SAE.

use std::path::{Path, PathBuf};

/// The database.
pub const DATABASE: &str = "runs.db";

/// The folder of the locks of jobs and streams.
pub const LOCKS: &str = ".locks";

/// The folder of streams that any machine may take.
pub const POOL: &str = ".pool";

/// The folder of what trackers such as TensorBoard are given.
pub const TRACKERS: &str = "trackers";

/// What a worker has to do, in its stream's folder.
pub const ORDER: &str = "order.json";

/// What a worker reports, in its stream's folder.
pub const EVENTS: &str = "events.jsonl";

/// What a worker prints, in its stream's folder.
pub const LOG: &str = "worker.log";

/// The lock of a stream, in its folder.
pub const STREAM_LOCK: &str = "worker.lock";

const STATE: &str = ".state";
/// In the folder of a job's state: the one that stays when the job is done.
pub const KEPT: &str = "kept";

const BEST: &str = ".best";
const EVAL: &str = ".eval";
const STREAMS: &str = ".streams";

/// Folders of a sweep in which each job or stream has one.
pub const SHELVES: [&str; 4] = [STATE, BEST, EVAL, STREAMS];

/// The lock of a job or a stream, by its id.
pub fn lock_path(id: &str) -> PathBuf {
    Path::new(LOCKS).join(id)
}

/// A job's folder; `folder` is its name.
pub fn job_dir(sweep: &str, folder: &str) -> String {
    format!("{sweep}/{folder}")
}

/// The folder of a job's resume state.
pub fn state_dir(job_dir: impl AsRef<Path>) -> PathBuf {
    beside(job_dir.as_ref(), STATE)
}

/// The folder of the state that a job keeps when it is done, for a longer training.
pub fn kept_state_dir(job_dir: impl AsRef<Path>) -> PathBuf {
    state_dir(job_dir).join(KEPT)
}

/// The folder of a job's SAEs with the lowest loss.
pub fn best_dir(job_dir: impl AsRef<Path>) -> PathBuf {
    beside(job_dir.as_ref(), BEST)
}

/// The folder of what an evaluation found of a job's latents.
pub fn eval_dir(job_dir: impl AsRef<Path>) -> PathBuf {
    beside(job_dir.as_ref(), EVAL)
}

/// The file with the firing density of the SAE called `sae`.
pub fn density_path(job_dir: impl AsRef<Path>, sae: &str) -> PathBuf {
    eval_dir(job_dir).join(format!("{sae}.safetensors"))
}

/// All folders of a job whose folder is `job_dir`.
pub fn job_folders(job_dir: &str) -> [PathBuf; 4] {
    [
        PathBuf::from(job_dir),
        state_dir(job_dir),
        best_dir(job_dir),
        eval_dir(job_dir),
    ]
}

/// A stream's folder.
pub fn stream_dir(sweep: &str, stream_id: &str) -> String {
    format!("{sweep}/{STREAMS}/{stream_id}")
}

/// What the worker of a rank but the first prints, in its stream's folder.
pub fn log_of_rank(rank: usize) -> String {
    format!("worker.{rank}.log")
}

/// The folder of a job within the folder `shelf` of its sweep.
fn beside(job_dir: &Path, shelf: &str) -> PathBuf {
    let sweep = job_dir.parent().unwrap_or(Path::new(""));
    let name = job_dir.file_name().unwrap_or_default();
    sweep.join(shelf).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_sparsifys_is_next_to_a_jobs_folder() {
        let dir = job_dir("sweep", "k=32-ab12");
        let dir = Path::new(&dir);
        for (path, expected) in [
            (state_dir(dir), "sweep/.state/k=32-ab12"),
            (best_dir(dir), "sweep/.best/k=32-ab12"),
            (
                density_path(dir, "layers.3"),
                "sweep/.eval/k=32-ab12/layers.3.safetensors",
            ),
        ] {
            assert_eq!(path, Path::new(expected));
            assert!(SHELVES.iter().any(|shelf| expected.contains(shelf)));
        }
        assert_eq!(stream_dir("sweep", "ab12"), "sweep/.streams/ab12");
    }
}
