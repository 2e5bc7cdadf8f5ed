//! A Hub on this machine until standard input ends, to download from and to publish to by hand:
//! `serve [--lfs] [--part-bytes N] [gated:|private:][datasets/]ID[@REVISION]=FOLDER ...`. It prints
//! the variables to set for other programs, then what it serves, and in the end what it was asked.
//!
//! `HF_TOKEN` is the token that it accepts, `hf_local` by default. Large files go to a Xet store;
//! with `--lfs` (or from clients without Xet) by LFS, in parts of N bytes if that is given.

use sae_run_hub_server::{Access, HubServer};
use std::error::Error;
use std::io::Read;
use std::path::Path;

#[expect(clippy::print_stdout, reason = "an example talks")]
fn main() -> Result<(), Box<dyn Error>> {
    let server = HubServer::start();
    let token = std::env::var("HF_TOKEN").unwrap_or_else(|_| "hf_local".into());
    server.set_token(&token);
    println!("export HF_ENDPOINT={} HF_TOKEN={token}", server.url());
    let mut offers_xet = true;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--lfs" => offers_xet = false,
            "--part-bytes" => server.split_uploads(arguments.next().ok_or("N")?.parse()?),
            folder => add(&server, folder)?,
        }
    }
    if offers_xet {
        server.offer_xet();
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for request in server.requests() {
        let (method, target) = (request.method, request.target);
        println!("{method} {target} {}", request.body_bytes);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example talks")]
fn add(server: &HubServer, argument: &str) -> Result<(), Box<dyn Error>> {
    let (access, repo) = match argument.split_once(':') {
        Some(("gated", repo)) => (Access::Gated, repo),
        Some(("private", repo)) => (Access::Private, repo),
        _ => (Access::Open, argument),
    };
    let (repo, folder) = repo.split_once('=').ok_or("ID=FOLDER")?;
    let (repo, revision) = repo.split_once('@').unwrap_or((repo, "main"));
    let folder = Path::new(folder);
    let (id, commit) = match repo.strip_prefix("datasets/") {
        Some(id) => (id, server.add_dataset_revision(id, revision, folder)),
        None => (repo, server.add_revision(repo, revision, folder)),
    };
    println!("{id} {commit}");
    server.restrict(id, access);
    Ok(())
}
