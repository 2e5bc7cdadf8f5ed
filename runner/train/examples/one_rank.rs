//! Connects one rank with itself and makes every collective: what one GPU can show of NCCL.
//!
//! ```text
//! cargo run -p sae-run-train --example one_rank -- cuda:0
//! ```

use dist::{Hello, Timeouts, World};
use plan::{Environment, StoreAddress};
use std::error::Error;
use std::net::TcpListener;
use std::process::ExitCode;
use tch::Tensor;

fn main() -> ExitCode {
    let device = std::env::args().nth(1).unwrap_or_else(|| "cuda".into());
    match run(&device) {
        Ok(line) => {
            say(&line);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(device: &str) -> Result<String, Box<dyn Error>> {
    lm::init_backends();
    let device = lm::parse_device(device)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    drop(listener);
    let environment = Environment {
        rank: 0,
        world_size: 1,
        local_rank: 0,
        local_size: 1,
        store: StoreAddress {
            host: "127.0.0.1".into(),
            port,
            is_served_by_launcher: false,
        },
        restart_count: 0,
    };
    let (hello, timeouts) = (Hello::default(), Timeouts::default());
    let world = World::join(environment, "one rank", &hello, device, timeouts)?;
    let group = world.data();
    let given = Tensor::from_slice(&[1_f32, -2.0, 3.5]).to_device(device);
    let mut summed = given.copy();
    group.all_reduce("sum", &mut summed)?;
    let begun = group.begin_all_reduce("sum of a later wait", given.copy())?;
    let waited = begun.wait()?;
    let mut sent = given.copy();
    group.broadcast("root", &mut sent, 0)?;
    let gathered = group.all_gather("all", &given)?;
    let exchanged = group.all_to_all("rows", &given, (&[3], &[3]))?;
    world.control().barrier("the end")?;
    let results = [&summed, &waited, &sent, &gathered[0], &exchanged];
    if let Some(wrong) = results.iter().find(|result| !result.equal(&given)) {
        return Err(format!("{given:?} became {wrong:?}").into());
    }
    Ok(format!(
        "{} on {device:?}: every collective of one rank",
        group.backend()
    ))
}

#[expect(clippy::print_stdout, reason = "a program whose result is its output")]
fn say(line: &str) {
    println!("{line}");
}
