//! Compiles the crate again when a migration is added: `sqlx::migrate!` reads the folder, which
//! cargo does not see.
#![allow(clippy::print_stdout, reason = "how a build script talks to cargo")]

fn main() {
    println!("cargo::rerun-if-changed=../../migrations");
}
