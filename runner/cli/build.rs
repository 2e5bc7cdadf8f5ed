//! Nothing to do yet but to rebuild when the migrations change.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
