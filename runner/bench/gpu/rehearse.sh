#!/usr/bin/env bash
# Tries the kit on the CPU, in an empty folder, with nothing of this project in the environment: PyTorch 2.11 alone.
#
#   rehearse.sh KIT.tar.xz [options of check.sh]
set -euo pipefail
shopt -s inherit_errexit

SETUP=$(dirname "${BASH_SOURCE[0]}")/../../setup/setup.sh

kit=$(realpath "$1")
python=$("$SETUP" kit-python "${*:2}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/home"
tar --extract --file "$kit" --directory "$folder"
cd "$folder"
env -i HOME="$folder/home" PATH="$(dirname "$python"):/usr/bin:/bin" TMPDIR="$folder" LANG=C.UTF-8 \
    sae-run-gpu-kit/runner/bench/gpu/check.sh --device cpu --smoke "${@:2}"
