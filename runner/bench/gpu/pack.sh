#!/usr/bin/env bash
# Packs the kit with which a machine with a GPU and PyTorch 2.11 checks and measures sae-run: programs, what is
# between them and libtorch, recipe engine, fixtures, scripts, and sparsify with what that machine lacks.
#
#   pack.sh PROGRAMS FOLDER    PROGRAMS: a target folder with debug/; the kit becomes FOLDER/sae-run-gpu-kit.tar.xz
set -euo pipefail
shopt -s inherit_errexit

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
NAME=sae-run-gpu-kit
CACHE=${SAE_RUN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sae-run}
TORCH=2.11
# Pure Python, for the Python of that machine.
PYTHON=3.12
WHEELS=(eai-sparsify==1.3.3 schedulefree==1.4.1 datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19
    simple-parsing==0.1.9 docstring-parser==0.18.0 natsort==8.4.0)
MOST_MB=62

main() {
    local programs=$1/debug folder=$2 kit libraries
    mkdir -p "$folder"
    kit=$(mktemp -d "$folder/.packing.XXXXXX")/$NAME
    trap 'rm -rf "$(dirname "'"$kit"'")"' EXIT
    mkdir -p "$kit"/{bin,lib,cache,site}
    libraries=$("$ROOT/runner/setup/setup.sh" torch "$TORCH" cuda)
    cp "$libraries"/*.so "$kit/lib"
    cp "$programs"/{sae-run,sae-run-worker} "$programs"/examples/{bench_step,one_rank} "$kit/bin"
    strip "$kit"/bin/* "$kit"/lib/*
    cp -r "$CACHE/engine" "$kit/cache"
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --only-binary :all: \
        --python-version "$PYTHON" --target "$kit/site" "${WHEELS[@]}"
    (cd "$ROOT" && tar --create --exclude __pycache__ runner/bench docs/performance.md \
        tests/fixtures/{tiny-llama,tiny.jsonl,kinds.json}) | tar --extract --directory "$kit"
    tar --create --directory "$(dirname "$kit")" --owner 0 --group 0 "$NAME" | xz -T0 -6 >"$folder/$NAME.tar.xz.new"
    mv "$folder/$NAME.tar.xz.new" "$folder/$NAME.tar.xz"
    report "$folder/$NAME.tar.xz"
}

report() {
    local mb=$(($(stat --format %s "$1") / 1000000))
    echo "$1: $mb MB"
    ((mb < MOST_MB)) || { echo "error: more than $MOST_MB MB" >&2 && exit 1; }
}

main "$@"
