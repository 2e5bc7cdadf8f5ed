//! Serves folders as models and data sets until standard input ends:
//! `serve [gated:|private:][datasets/]ID[@REVISION]=FOLDER ...`. For trying other clients of the Hub,
//! with `HF_ENDPOINT` set to the address that is printed. `HF_TOKEN` is the token that it accepts.

use sae_run_hub::testing::{Access, HubServer};
use std::error::Error;
use std::io::Read;
use std::path::Path;

#[expect(clippy::print_stdout, reason = "an example talks")]
fn main() -> Result<(), Box<dyn Error>> {
    let server = HubServer::start();
    println!("{}", server.url());
    if let Ok(token) = std::env::var("HF_TOKEN") {
        server.set_token(&token);
    }
    for argument in std::env::args().skip(1) {
        let (access, repo) = match argument.split_once(':') {
            Some(("gated", repo)) => (Access::Gated, repo),
            Some(("private", repo)) => (Access::Private, repo),
            _ => (Access::Open, argument.as_str()),
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
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for request in server.requests() {
        println!("{} {}", request.method, request.target);
    }
    Ok(())
}
