//! `sae-run doctor --gpu`: what a GPU can do, and each kernel next to libtorch's operations.

use super::lines;
use crate::error::CliError;
use crate::run::worker_program;
use crate::show::{json, table};
use crate::sweep::paths::Folders;
use args::DoctorArgs;
use plan::{GpuFound, GpuReport, GpuTask, KernelFound, KernelsFound, Task, UpdateShape};

/// For a machine without one.
const WITHOUT_GPU: &str = "\
Training runs on the CPU then. On an NVIDIA GPU of compute capability 8.0 or
above (A100, RTX 30 and later), this command checks the project's kernels there
and measures them next to libtorch's operations.
";

pub(super) fn doctor(args: &DoctorArgs) -> Result<u8, CliError> {
    let task = Task::Gpu(GpuTask {
        device: args.device.clone(),
        cache_dir: Folders::of_this_machine()?.cache,
        shape: args.shape,
    });
    let report: GpuReport = worker_program::run(&task, &mut |_, _| {})?;
    if args.json {
        return json::print(&report);
    }
    table::print(&match report {
        GpuReport::NoGpu { reason } => {
            let line = lines(&[("GPU", format!("none: {reason}"))]);
            format!("{line}\n{WITHOUT_GPU}")
        }
        GpuReport::Found(found) => text(&found, args.shape),
    })
}

fn text(found: &GpuFound, shape: UpdateShape) -> String {
    let products = found.product_flop_s.iter();
    let products = products.map(|(kind, flop_s)| format!("{:.0} TFLOP/s in {kind}", flop_s / 1e12));
    let products: Vec<_> = products.collect();
    let copies = format!("{:.2} TB/s read and written", found.copied_bytes_s / 1e12);
    let (card, of_kernels, table) = match &found.kernels {
        KernelsFound::Unusable { reason } => {
            let none = vec![("kernels", format!("none: {reason}"))];
            (found.device.clone(), none, String::new())
        }
        KernelsFound::Checked {
            card,
            notes,
            kernels,
        } => {
            let notes = notes.iter().map(|note| ("note", note.clone()));
            let card = format!("{}, {card}", found.device);
            (card, notes.collect(), kernel_table(kernels, shape))
        }
    };
    let mut rows = vec![
        ("GPU", card),
        ("copies", copies),
        ("products", products.join(", ")),
    ];
    rows.extend(of_kernels);
    lines(&rows) + &table
}

/// Each kernel, and why those that failed did.
fn kernel_table(kernels: &[KernelFound], shape: UpdateShape) -> String {
    let header = ["kernel", "check", "ms", "libtorch", "least"];
    let rows = kernels.iter().map(row).collect();
    let reason = |kernel: &KernelFound| {
        let reason = kernel.rejection.as_ref()?;
        Some(format!("{}: {reason}\n", kernel.name))
    };
    let reasons: String = kernels.iter().filter_map(reason).collect();
    format!(
        "\nKernels at {}; `least`: a copy of as many bytes\n\n{}{reasons}",
        shape.in_words(),
        table::render(&header, rows, 2)
    )
}

fn row(kernel: &KernelFound) -> Vec<String> {
    let check = if kernel.rejection.is_some() {
        "failed"
    } else {
        "ok"
    };
    let ms = |seconds: f64| format!("{:.3}", 1e3 * seconds);
    let [ours, theirs] = match kernel.seconds {
        Some(seconds) => seconds.map(ms),
        None => ["-".to_owned(), "-".to_owned()],
    };
    vec![
        kernel.name.clone(),
        check.to_owned(),
        ours,
        theirs,
        ms(kernel.least_s),
    ]
}
