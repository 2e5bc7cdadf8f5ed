//! Worlds of real processes: this test binary starts itself, once for each rank.

use crate::{DistError, Hello, Kind, Role, Timeouts, World};
use plan::{Environment, StoreAddress};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};
use tch::{Device, Kind as Dtype, Tensor};

const CASE: &str = "SAE_RUN_DIST_TEST_CASE";
const TIMEOUT: Duration = Duration::from_secs(20);
const SHORT: Timeouts = Timeouts {
    join: Duration::from_secs(8),
    collective: Duration::from_secs(5),
};

/// What each rank of a case does; what it returns is printed.
type Case = fn(Environment) -> Result<String, DistError>;

fn cases() -> BTreeMap<&'static str, Case> {
    BTreeMap::from([
        ("collectives", collectives as Case),
        ("uneven", uneven),
        ("overlapping", overlapping),
        ("dead", dead),
        ("dead amid sums", dead_amid_sums),
        ("stalled", stalled),
        ("failed", failed),
        ("other shapes", other_shapes),
        ("astray", astray),
        ("out of step", out_of_step),
        ("other program", other_program),
        ("store lost", store_lost),
        ("join only", join_only),
    ])
}

/// No test, but what the ranks of the others run.
#[test]
fn a_rank() {
    let Ok(name) = env::var(CASE) else { return };
    let environment = Environment::of_process().unwrap().unwrap();
    let outcome = cases()[name.as_str()](environment);
    let text = outcome.unwrap_or_else(|error| format!("error: {error}"));
    // To a separate file: the test harness prints too.
    fs::write(env::var("SAE_RUN_DIST_TEST_OUTPUT").unwrap(), text).unwrap();
}

/// The ranks of a case.
struct Ranks {
    dir: tempfile::TempDir,
    children: Vec<Child>,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Ranks {
    fn start(case: &str, ranks: std::ops::Range<usize>, world_size: usize, port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let start = |rank: usize| {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", "tests::a_rank"])
                .env(CASE, case)
                .env(
                    "SAE_RUN_DIST_TEST_OUTPUT",
                    dir.path().join(rank.to_string()),
                )
                .env("RANK", rank.to_string())
                .env("WORLD_SIZE", world_size.to_string())
                .env("MASTER_ADDR", "127.0.0.1")
                .env("MASTER_PORT", port.to_string())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let children = ranks.map(start).collect();
        Self { dir, children }
    }

    /// What each rank said in the end, by rank; nothing of one that died.
    fn said(self) -> Vec<String> {
        let Self { dir, children } = self;
        let outputs: Vec<Output> = children
            .into_iter()
            .map(|child| child.wait_with_output().unwrap())
            .collect();
        let said = |(rank, _): (usize, &Output)| {
            fs::read_to_string(dir.path().join(rank.to_string())).unwrap_or_default()
        };
        outputs.iter().enumerate().map(said).collect()
    }
}

fn run(case: &str, world_size: usize) -> Vec<String> {
    Ranks::start(case, 0..world_size, world_size, free_port()).said()
}

fn join(environment: Environment, timeouts: Timeouts) -> Result<World, DistError> {
    World::join(
        environment,
        "test",
        &Hello::default(),
        Device::Cpu,
        timeouts,
    )
}

fn patient() -> Timeouts {
    Timeouts {
        join: TIMEOUT,
        collective: TIMEOUT,
    }
}

fn ints(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.flatten(0, -1).to_kind(Dtype::Int64)).unwrap()
}

fn collectives(environment: Environment) -> Result<String, DistError> {
    let world = join(environment, patient())?;
    let (rank, group) = (world.rank() as i64, world.data());
    let mut sum = Tensor::from_slice(&[1f32, rank as f32]);
    for _ in 0..2 {
        group.all_reduce("sum", &mut sum)?;
    }
    let mut of_root = Tensor::from_slice(&[rank * 10, 7]);
    group.broadcast("root", &mut of_root, 1)?;
    let gathered = group.all_gather("all", &Tensor::from_slice(&[rank, -rank]).view([1, 2]))?;
    let gathered: Vec<_> = gathered.iter().map(ints).collect();
    let volume = group.volume();
    let any = [
        group.any("one of them", rank == 1)?,
        group.any("none of them", false)?,
    ];
    world.control().barrier("the end")?;
    Ok(format!(
        "{:?} {:?} {gathered:?} {any:?} {} of {} bytes",
        ints(&sum),
        ints(&of_root),
        volume.n_calls(Kind::AllReduce),
        volume.n_bytes(Kind::AllReduce)
    ))
}

#[test]
fn two_ranks_sum_broadcast_and_gather() {
    let expected = "[4, 2] [10, 7] [[0, 0], [1, -1]] [true, false] 2 of 16 bytes";
    assert_eq!(run("collectives", 2), [expected; 2]);
}

#[test]
fn so_do_four() {
    let said = run("collectives", 4);
    assert!(
        said.iter().all(|said| said.starts_with("[16, 24] [10, 7]")),
        "{said:?}"
    );
}

/// Rank r sends r + q rows to rank q, each with the numbers of both; then all send to rank 0 alone.
fn uneven(environment: Environment) -> Result<String, DistError> {
    let world = join(environment, patient())?;
    let (rank, size) = (world.rank(), world.size());
    let n_to: Vec<usize> = (0..size)
        .map(|to| if to == rank { 0 } else { rank + to })
        .collect();
    let rows = n_to.iter().enumerate();
    let rows: Vec<i64> = rows
        .flat_map(|(to, &n)| [rank as i64, to as i64].repeat(n))
        .collect();
    let rows = Tensor::from_slice(&rows).view([-1, 2]);
    // What goes to a rank and comes from it is as many.
    let received = world.data().all_to_all("rows", &rows, (&n_to, &n_to))?;
    let bytes = world.data().volume().n_bytes(Kind::AllToAll);
    let (mut to_first, mut from) = (vec![0; size], vec![0; size]);
    to_first[0] = 1;
    if rank == 0 {
        from = vec![1; size];
    }
    let row = Tensor::from_slice(&[rank as i64]);
    let gathered = world.data().all_to_all("row", &row, (&to_first, &from))?;
    Ok(format!(
        "{:?} {bytes} {:?}",
        ints(&received),
        ints(&gathered)
    ))
}

#[test]
fn rows_go_to_their_owner_only() {
    let said = run("uneven", 3);
    assert_eq!(said[0], "[1, 0, 2, 0, 2, 0] 48 [0, 1, 2]");
    assert_eq!(said[1], "[0, 1, 2, 1, 2, 1, 2, 1] 64 []");
    assert_eq!(said[2], "[0, 2, 0, 2, 1, 2, 1, 2, 1, 2] 80 []");
}

/// Several sums at once, waited for in another order than they were begun in.
fn overlapping(environment: Environment) -> Result<String, DistError> {
    let world = join(environment, patient())?;
    let group = world.data();
    let large = |value: i64| Tensor::full([1 << 18], value, (Dtype::Float, Device::Cpu));
    let first = group.begin_all_reduce("first", large(1))?;
    let second = group.begin_all_reduce("second", large(10))?;
    let empty = group.begin_all_reduce("empty", Tensor::zeros([0], (Dtype::Float, Device::Cpu)))?;
    let (second, first) = (second.wait()?, first.wait()?);
    assert_eq!(empty.wait()?.numel(), 0);
    let range = |sum: Tensor| [sum.min(), sum.max()].map(|end| end.int64_value(&[]));
    Ok(format!("{:?} {:?}", range(first), range(second)))
}

#[test]
fn sums_go_on_side_by_side() {
    assert_eq!(run("overlapping", 2), ["[2, 2] [20, 20]"; 2]);
}

fn dead(environment: Environment) -> Result<String, DistError> {
    let world = join(environment, patient())?;
    world.control().barrier("the first")?;
    if world.rank() == 2 {
        std::process::abort();
    }
    let begun = Instant::now();
    let mut sum = Tensor::ones([1000], (Dtype::Float, Device::Cpu));
    let error = world.data().all_reduce("gradients", &mut sum).unwrap_err();
    assert!(begun.elapsed() < TIMEOUT / 2, "{error}");
    Err(error)
}

#[test]
fn a_dead_rank_is_named_at_once() {
    let said = run("dead", 3);
    for said in &said[..2] {
        assert!(said.starts_with("error: lost rank 2 in the all-"), "{said}");
        assert!(said.contains("gradients`"), "{said}");
    }
    assert_eq!(said[2], "");
}

/// Sums of which some are still in progress when others have failed.
fn dead_amid_sums(environment: Environment) -> Result<String, DistError> {
    let world = join(environment, patient())?;
    let group = world.data();
    let sum_all = || -> Result<(), DistError> {
        let begin = |name: &str| {
            let ones = Tensor::ones([1 << 18], (Dtype::Float, Device::Cpu));
            group.begin_all_reduce(name, ones)
        };
        let sums = ["a", "b", "c", "d"].map(begin);
        for sum in sums {
            drop(sum?.wait()?);
        }
        Ok(())
    };
    sum_all()?;
    if world.rank() == 2 {
        std::process::abort();
    }
    loop {
        sum_all()?;
    }
}

#[test]
fn a_dead_rank_holds_up_nobody_who_sums_several_at_once() {
    for _ in 0..4 {
        let begun = Instant::now();
        let said = run("dead amid sums", 4);
        assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
        for rank in [0, 1, 3] {
            let said = &said[rank];
            assert!(said.starts_with("error: lost rank 2 in the all-"), "{said}");
        }
    }
}

fn stalled(environment: Environment) -> Result<String, DistError> {
    let world = join(environment, SHORT)?;
    let mut sum = Tensor::ones([10], (Dtype::Float, Device::Cpu));
    world.data().all_reduce("gradients", &mut sum)?;
    if world.rank() == 1 {
        sleep(SHORT.collective * 3);
        return Ok("awake".into());
    }
    Err(world.data().all_reduce("gradients", &mut sum).unwrap_err())
}

#[test]
fn a_stalled_rank_and_the_collective_are_named() {
    let said = run("stalled", 3);
    for rank in [0, 2] {
        assert_eq!(
            said[rank],
            "error: rank 1 did not arrive at the all-reduce `gradients` within 5 s"
        );
    }
}

fn failed(environment: Environment) -> Result<String, DistError> {
    let world = join(environment, patient())?;
    if world.rank() == 0 {
        world.fail("no space is left", false)?;
        return Ok("told".into());
    }
    Err(world.control().barrier("the end of it").unwrap_err())
}

#[test]
fn what_a_failing_rank_says_is_repeated() {
    let said = run("failed", 2);
    assert_eq!(said, ["told", "error: rank 0 failed: no space is left"]);
}

fn other_shapes(environment: Environment) -> Result<String, DistError> {
    let world = join(environment, patient())?;
    let mut sum = Tensor::ones([10 + world.rank() as i64], (Dtype::Float, Device::Cpu));
    let error = world.data().all_reduce("gradients", &mut sum).unwrap_err();
    let mut sum = Tensor::ones([10], (Dtype::Float, Device::Cpu));
    world.data().all_reduce("biases", &mut sum)?;
    let mut sum = sum.to_kind(Dtype::Double);
    world.data().all_reduce("biases", &mut sum).unwrap_err();
    Err(error)
}

#[test]
fn unequal_tensors_are_an_error_and_no_hang() {
    let said = run("other shapes", 2);
    assert_eq!(
        said[0],
        "error: rank 1 has Float [11] for the all-reduce `gradients`, rank 0 has Float [10]"
    );
    assert!(
        said[1].starts_with("error: rank 0 has Float [10]"),
        "{said:?}"
    );
}

/// Calls that fit each other by accident.
fn astray(environment: Environment) -> Result<String, DistError> {
    let world = join(environment, patient())?;
    let mut sum = Tensor::ones([4], (Dtype::Float, Device::Cpu));
    for name in ["a", "b"] {
        world.data().all_reduce(name, &mut sum)?;
    }
    let agreed = world.agree("step 1", &[world.rank() as i64])?;
    assert_eq!(agreed, [[0], [1]]);
    let name = ["a", "b"][world.rank()];
    world.data().all_reduce(name, &mut sum)?;
    Err(world.agree("step 2", &[]).unwrap_err())
}

#[test]
fn ranks_that_made_other_calls_are_found_out() {
    let expected = "error: ranks 0 and 1 made different calls before `step 2`";
    assert_eq!(run("astray", 2), [expected; 2]);
}

fn out_of_step(environment: Environment) -> Result<String, DistError> {
    // Rank 0 gives up first: to the other, whose connections it closes, that may be no timeout.
    let timeouts = Timeouts {
        collective: SHORT.collective * (1 + environment.rank as u32),
        ..SHORT
    };
    let world = join(environment, timeouts)?;
    let group = world.data();
    let mut sum = Tensor::ones([4], (Dtype::Float, Device::Cpu));
    group.all_reduce("a", &mut sum)?;
    // Of different kinds: neither gets what it waits for.
    Err(match world.rank() {
        0 => group.barrier("the end").unwrap_err(),
        _ => group
            .all_reduce("a", &mut Tensor::ones([4], (Dtype::Float, Device::Cpu)))
            .unwrap_err(),
    })
}

#[test]
fn ranks_in_different_collectives_are_told_apart() {
    let said = run("out of step", 2);
    let expected = "error: rank 1 is in the all-reduce `a`, rank 0 in the all-gather `the end`";
    assert_eq!(said[0], expected);
}

fn other_program(environment: Environment) -> Result<String, DistError> {
    let digest = if environment.rank == 2 {
        "beef"
    } else {
        "cafe"
    };
    let hello = Hello::default()
        .with("version", "1")
        .with("program", digest);
    World::join(environment, "test", &hello, Device::Cpu, patient()).map(|_| "joined".into())
}

#[test]
fn another_program_is_an_error_on_every_rank() {
    let said = run("other program", 3);
    assert_eq!(
        said[0],
        "error: rank 2 has program `beef`, rank 0 has `cafe`"
    );
    assert_eq!(
        said[1],
        "error: rank 2 has program `beef`, rank 1 has `cafe`"
    );
    assert_eq!(
        said[2],
        "error: rank 0 has program `cafe`, rank 2 has `beef`"
    );
}

fn store_lost(environment: Environment) -> Result<String, DistError> {
    let world = join(environment, patient())?;
    assert_eq!(world.role() == Role::Writer, world.rank() == 0);
    world.control().barrier("all are connected")?;
    if world.rank() == 0 {
        // The other one has to come out of the barrier, too.
        sleep(Duration::from_secs(1));
        std::process::abort();
    }
    Err(world.control().barrier("the end").unwrap_err())
}

#[test]
fn the_death_of_rank_0_takes_the_store_with_it() {
    let said = run("store lost", 2);
    assert!(
        said[1].starts_with("error: the store at `127.0.0.1:"),
        "{said:?}"
    );
    assert!(
        said[1].contains("was lost during the all-gather `the end`"),
        "{said:?}"
    );
}

fn join_only(environment: Environment) -> Result<String, DistError> {
    join(environment, SHORT).map(|_| "joined".into())
}

#[test]
fn ranks_that_do_not_come_are_named() {
    let said = Ranks::start("join only", 0..2, 4, free_port()).said();
    for said in &said {
        assert_eq!(said, "error: ranks 2 and 3 of 4 did not join within 8 s");
    }
}

#[test]
fn a_port_in_use_and_a_store_that_is_not_there_are_errors() {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let said = Ranks::start("join only", 0..1, 2, port).said();
    assert_eq!(
        said[0],
        format!("error: rank 0 cannot listen on port {port}: it is in use")
    );
    let address = StoreAddress {
        host: "127.0.0.1".into(),
        port: free_port(),
        is_served_by_launcher: true,
    };
    let environment = Environment {
        rank: 1,
        world_size: 2,
        local_rank: 1,
        local_size: 2,
        store: address,
        restart_count: 0,
    };
    let error = join(environment, SHORT).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("rank 1 cannot reach the store"),
        "{message}"
    );
}
