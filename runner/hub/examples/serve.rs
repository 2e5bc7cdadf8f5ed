//! Serves folders as models until standard input ends: `serve [gated:|private:]ID=FOLDER ...`. For
//! trying other clients of the Hub, with `HF_ENDPOINT` set to the address that is printed.
//! `HF_TOKEN` is the token that it accepts.

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
        let (access, model) = match argument.split_once(':') {
            Some(("gated", model)) => (Access::Gated, model),
            Some(("private", model)) => (Access::Private, model),
            _ => (Access::Open, argument.as_str()),
        };
        let (id, folder) = model.split_once('=').ok_or("ID=FOLDER")?;
        println!("{id} {}", server.add_model(id, Path::new(folder)));
        server.restrict(id, access);
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for request in server.requests() {
        println!("{} {}", request.method, request.target);
    }
    Ok(())
}
