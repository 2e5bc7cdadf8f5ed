#!/usr/bin/env bash
# Builds the wheel into dist/: sae_run-VERSION-py3-none-manylinux_2_28_x86_64.whl. It has
#
#   bin/sae-run, bin/sae-run-worker
#   share/sae-run/libtch/2.13/    what is between the worker and PyTorch 2.13; a folder for each version
#   share/sae-run/engine/         the Python recipe engine, compiled for any x86-64 processor
#   sae_run                       the package for Python
#
#   wheel.sh release    zig links the programs against glibc 2.28, the oldest that PyTorch's own wheels run on
#   wheel.sh dev        with the programs that the tests have built, against this machine's glibc; without NCCL
#
# auditwheel looks which glibc is needed, and names the wheel after it.
set -euo pipefail
shopt -s inherit_errexit

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${SAE_RUN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sae-run}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
# As pyproject.toml names it.
DATA=$ROOT/target/wheel/data
HOST=x86_64-unknown-linux-gnu
GLIBC=2.28
MOST_MB=104
# As in the Makefile.
PROGRAMS=(cargo build --locked --workspace --bins --example compile_engine)

main() {
    local profile=${1:-release} built=$ROOT/target/wheel/built cuda=() share=$DATA/data/share/sae-run
    cd "$ROOT"
    PATH=$(runner/setup/setup.sh wheel-tools):$PATH
    rm -rf target/wheel dist
    mkdir -p "$DATA/scripts" "$built"
    [[ $profile == dev ]] || cuda=(cuda)
    libraries "$share/libtch" "${cuda[@]}"
    "${PROGRAMS[@]}"
    "$CARGO_TARGET_DIR/debug/examples/compile_engine" "$CACHE" "$share/engine"
    "programs_$profile" "$built"
    # PyTorch is the user's: it is not copied into the wheel.
    auditwheel repair --plat auto --exclude 'libtch*' --exclude 'libtorch*' --exclude 'libc10*' --wheel-dir dist "$built"/*.whl
    report dist/*.whl
}

programs_release() {
    # In place of the flags of .cargo/config.toml, which name folders of this machine.
    export RUSTFLAGS=-Cstrip=symbols
    cargo zigbuild --release --locked --target "$HOST.$GLIBC" -p sae-run-worker
    cp "$CARGO_TARGET_DIR/$HOST/release/sae-run-worker" "$DATA/scripts"
    maturin build --release --locked --zig --target "$HOST" --compatibility "manylinux_${GLIBC/./_}" --out "$1"
}

programs_dev() {
    cp "$CARGO_TARGET_DIR/debug/sae-run-worker" "$DATA/scripts"
    stripped "$DATA/scripts/sae-run-worker"
    CARGO=$(cargo_of_maturin) maturin build --profile dev --locked --compatibility linux --out "$1"
}

# maturin has cargo compile `sae-run` alone, and so most dependencies anew, with fewer features. Prints the path of a cargo
# that gives it the program that is there.
cargo_of_maturin() {
    local folder=$ROOT/target/wheel/bin
    mkdir -p "$folder"
    cat >"$folder/cargo" <<END
#!/bin/bash
[[ \$1 == rustc ]] || exec $(command -v cargo) "\$@"
exec ${PROGRAMS[*]} --message-format json-render-diagnostics
END
    chmod +x "$folder/cargo"
    echo "$folder/cargo"
}

# libraries FOLDER [cuda]
libraries() {
    local version into
    while read -r version; do
        into=$1/$(cut -d . -f 1,2 <<<"$version")
        mkdir -p "$into"
        cp "$("$ROOT/runner/setup/setup.sh" torch "$version" "${@:2}")"/*.so "$into"
        stripped "$into"/*.so
    done < <("$ROOT/runner/setup/setup.sh" torches)
}

# stripped FILES: without symbols, and without the folder of this machine's libtorch.
stripped() {
    patchelf --remove-rpath "$@"
    strip --strip-unneeded "$@"
}

report() {
    local mb=$(($(stat --format %s "$1") / 1000000))
    echo "$1: $mb MB"
    ((mb < MOST_MB)) || { echo "error: more than $MOST_MB MB" >&2 && exit 1; }
}

main "$@"
