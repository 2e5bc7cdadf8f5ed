//! `sae-run doctor --gpu`: what a GPU can do, and each kernel next to libtorch's operations.

use crate::error::CliError;
use crate::run::worker_program;
use crate::show::table;
use crate::sweep::paths::Folders;
use args::DoctorArgs;
use plan::{GpuFound, GpuReport, GpuTask, KernelFound, KernelsFound, Task, UpdateShape};
use std::fmt::Write;

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
        let json = serde_json::to_string_pretty(&report).expect("plain fields serialise to JSON");
        return table::print(&format!("{json}\n"));
    }
    table::print(&match report {
        GpuReport::NoGpu { reason } => format!("GPU        none: {reason}\n\n{WITHOUT_GPU}"),
        GpuReport::Found(found) => text(&found, args.shape),
    })
}

fn text(found: &GpuFound, shape: UpdateShape) -> String {
    let mut text = String::new();
    let products = found.product_flop_s.iter();
    let products = products.map(|(kind, flop_s)| format!("{:.0} TFLOP/s in {kind}", flop_s / 1e12));
    let products: Vec<_> = products.collect();
    let card = match &found.kernels {
        KernelsFound::Checked { card, .. } => format!("{}, {card}", found.device),
        KernelsFound::Unusable { .. } => found.device.clone(),
    };
    let rows = [
        ("GPU", card),
        (
            "copies",
            format!("{:.2} TB/s read and written", found.copied_bytes_s / 1e12),
        ),
        ("products", products.join(", ")),
    ];
    for (what, found) in rows {
        let _ = writeln!(text, "{what:<10} {found}");
    }
    match &found.kernels {
        KernelsFound::Unusable { reason } => {
            let _ = writeln!(text, "{:<10} none: {reason}", "kernels");
        }
        KernelsFound::Checked { notes, kernels, .. } => {
            for note in notes {
                let _ = writeln!(text, "{:<10} {note}", "note");
            }
            let UpdateShape {
                n_tokens,
                num_latents,
                d_in,
                k,
            } = shape;
            let _ = writeln!(
                text,
                "\nKernels at {n_tokens} tokens, {num_latents} latents, d_in {d_in}, k {k}; `least`: a copy of as many bytes\n"
            );
            let header = ["kernel", "check", "ms", "libtorch", "least"];
            let rows = kernels.iter().map(row).collect();
            text.push_str(&table::render(&header, rows, 2));
            for (name, reason) in kernels
                .iter()
                .filter_map(|kernel| Some((&kernel.name, kernel.rejection.as_ref()?)))
            {
                let _ = writeln!(text, "{name}: {reason}");
            }
        }
    }
    text
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
