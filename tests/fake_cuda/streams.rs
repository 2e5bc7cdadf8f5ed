//! A second stream: work whose order no event says, and forward passes next to updates.

use super::log::Log;
use super::{DEVICE, ON_DEVICE, SHORT, command, log_of, on, part, worker_logs};
use crate::common::{Workspace, finish, with_jobs};
use lm::{SideStream, device_memory, forget_peak, used_here};
use tch::{Kind, Tensor};

/// What a process with the device does: right at first, then with each mistake once.
pub(super) fn mistakes() {
    let device = on(0);
    let side = SideStream::new(device).unwrap().unwrap();
    let x = Tensor::ones([4], (Kind::Float, device));
    let y = side.run(|| &x + 1.0).unwrap();
    side.join().unwrap();
    used_here(&y).unwrap();
    let _ = &y + &x;
    drop(y);

    let unjoined = side.run(|| &x + 1.0).unwrap();
    let _ = &unjoined * 2.0;
    side.join().unwrap();
    let _ = &unjoined * 3.0;
    // The allocator does not know of it.
    drop(unjoined);
    let mut written = x.copy();
    let read = side.run(|| &written + 1.0).unwrap();
    let _ = written.fill_(7.0);
    // Dropped on its own stream's terms: what is started there later comes after.
    drop(read);
}

/// The tensors that a device has at a time.
pub(super) fn memory() {
    let device = on(0);
    let first = Tensor::zeros([1000], (Kind::Float, device));
    drop(Tensor::zeros([5000], (Kind::Float, device)));
    assert_eq!(device_memory(device).unwrap().unwrap().most, 24000);
    forget_peak(device).unwrap();
    let memory = device_memory(device).unwrap().unwrap();
    assert_eq!((memory.most, memory.total - memory.free), (4000, 4000));
    drop(first);
}

#[test]
fn work_in_no_order_is_written_down() {
    let workspace = Workspace::unprepared();
    let (outcome, log) = part(&workspace, "streams");
    outcome.succeeds();
    let races: Vec<_> = log
        .of_kind("race")
        .map(|event| event.what.as_str())
        .collect();
    let expected = [
        "aten::mul.Tensor",
        "memory is freed while another stream uses it",
        "aten::fill_.Scalar",
    ];
    assert_eq!(races, expected);
    assert_eq!(log.of_kind("wait").count(), 0, "the host waited");
}

#[test]
fn what_tensors_take_is_counted() {
    let workspace = Workspace::unprepared();
    part(&workspace, "memory").0.succeeds();
}

/// How often the device has started a stream's work: passes that were begun early are on the second one.
fn n_on_side(log: &Log) -> usize {
    log.of_kind("stream").count()
}

#[test]
fn forward_passes_next_to_updates_change_no_bit() {
    let jobs = [
        ("signum", ""),
        (
            "adam",
            "optimizer='adam', micro_acc_steps=2, grad_acc_steps=2",
        ),
        (
            "auxk",
            "auxk_alpha=0.03125, dead_feature_threshold=1000, exclude_tokens=[0, 5]",
        ),
    ];
    let [together, in_turn] = [(); 2].map(|()| with_jobs(SHORT, &jobs));
    let overlap = [&ON_DEVICE[..], &["--set", "launch.overlap_forward=true"]].concat();
    finish(command(&together, "log", &overlap)).succeeds();
    finish(command(&in_turn, "log", &ON_DEVICE)).succeeds();
    assert!(together.trained() == in_turn.trained(), "other bits");
    let [log, other] = [&together, &in_turn].map(|workspace| log_of(workspace, "log"));
    super::check_devices_and_operators(&log);
    // Of 8 updates the first two measure, and the last begins nothing. Three streams of jobs, one with 4 passes.
    assert!(n_on_side(&log) >= 5, "{} passes", n_on_side(&log));
    assert_eq!(n_on_side(&other), 0);
    let said = worker_logs(&together);
    assert!(said.contains("memory: at most "), "{said}");
    assert!(!said.contains("do not overlap"), "{said}");
}

#[test]
fn where_they_cannot_overlap_the_log_says_why() {
    for (job, device, reason) in [
        ("loss_fn='ce'", DEVICE, "are in its forward pass"),
        ("load_in_8bit=True", DEVICE, "the host waits within"),
        ("", "cpu", "the CPU has no streams"),
    ] {
        let workspace = with_jobs(SHORT, &[("job", job)]);
        let device = format!("launch.device='{device}'");
        let args = [
            "tiny.toml",
            "--set",
            &device,
            "--set",
            "launch.overlap_forward=true",
        ];
        finish(command(&workspace, "log", &args)).succeeds();
        let log = worker_logs(&workspace);
        let said = log.contains("forward passes do not overlap updates") && log.contains(reason);
        assert!(said, "no `{reason}`: {log}");
    }
}

#[test]
fn a_gpu_with_little_memory_does_one_after_the_other() {
    let workspace = with_jobs(SHORT, &[("adam", "optimizer='adam'")]);
    let args = [&ON_DEVICE[..], &["--set", "launch.overlap_forward=true"]].concat();
    let mut command = command(&workspace, "log", &args);
    command.env("FAKE_CUDA_MEMORY", "4000000");
    finish(command).succeeds();
    let log = worker_logs(&workspace);
    assert!(log.contains("memory would not suffice"), "{log}");
}
