#!/usr/bin/env bash
# Checks and measures sae-run on a machine with an NVIDIA GPU, from the kit that `make gpu-kit` packs. It needs
# PyTorch 2.11 with CUDA in `python3`, and neither network, Rust nor anything of this project.
#
#   check.sh [--device cuda|cuda:N|cpu] [--parts 1,2,3,4a,4b,4c,5] [--out FOLDER] [--smoke]
#
#   1   sae-run doctor --gpu: the card, and each kernel next to libtorch
#   2   every kind of job compared with the CPU, resume, NCCL, a full GPU
#   3   an SAE's update next to libtorch's operations and sparsify
#   4a  whole runs next to sparsify on the shape of Pythia-160M; 4b: of Gemma-2-2B; 4c: of Llama-3-8B
#   5   the two slowest kernels under ncu
#
# The parts run in the order given, each within its own time; each ends with a short table, and leaves JSON in
# FOLDER (default: results/ beside the kit). The exit code is 1 if part 1 or 2 failed.
set -euo pipefail
shopt -s inherit_errexit

KIT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
PARTS=1,2,3,4a,4b,4c,5
OPTIONS=()
OUT=$KIT/results
DEVICE=cuda
PYTHON=$(command -v python3)
# Seconds that a part may take.
declare -A LIMITS=([1]=150 [2]=420 [3]=420 [4a]=180 [4b]=240 [4c]=540 [5]=180)

main() {
    local part status=0
    read_options "$@"
    use_torch
    mkdir -p "$OUT"
    for part in ${PARTS//,/ }; do
        [[ -n ${LIMITS[$part]:-} ]] || fail "there is no part \`$part\`"
        printf '\n=== part %s\n' "$part"
        if ! timeout --kill-after 20 "${LIMITS[$part]}" bash "${BASH_SOURCE[0]}" --run "$part" "${PASSED[@]}"; then
            echo "part $part failed, or did not end within ${LIMITS[$part]} s; what it has is in $OUT"
            [[ $part == [12] ]] && status=1
        fi
    done
    exit $status
}

read_options() {
    PASSED=("$@")
    while (($#)); do
        case $1 in
            --device) DEVICE=$2 && shift ;;
            --parts) PARTS=$2 && shift ;;
            --out) OUT=$2 && shift ;;
            --smoke) OPTIONS+=(--smoke) ;;
            *) fail "there is no option \`$1\`" ;;
        esac
        shift
    done
}

fail() {
    echo "error: $1" >&2
    exit 2
}

# The programs find the libtorch of python3 through libtch; sparsify and what it needs is in the kit.
use_torch() {
    local torch version
    torch=$("$PYTHON" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])') ||
        fail "the Python \`$PYTHON\` has no PyTorch"
    version=$(sed -n "s/^__version__ = '\(.*\)'$/\1/p" "$torch/version.py")
    [[ $version == 2.11.* ]] || fail "\`$torch\` is PyTorch $version; the kit is for 2.11"
    export LD_LIBRARY_PATH=$KIT/lib:$torch/lib
    export SAE_RUN_CACHE=$KIT/cache
    export PYTHONPATH=$KIT/site:$KIT/runner/bench PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
}

run_part() {
    local part=$1
    shift
    read_options "$@"
    case $part in
        1) doctor ;;
        2) script agree.py ;;
        3) script updates.py ;;
        4a) script whole.py --shape pythia ;;
        4b) script whole.py --shape gemma ;;
        4c) script whole.py --shape llama ;;
        5) script ncu.py ;;
    esac
}

script() {
    # The limit's signal is for Python, which prints the table of what is done.
    exec "$PYTHON" "$KIT/runner/bench/gpu/$1" "${@:2}" --bin "$KIT/bin" --out "$OUT" --device "$DEVICE" "${OPTIONS[@]}"
}

doctor() {
    local shape shapes=(16384,131072,4096,32 4096,24576,768,64)
    [[ " ${OPTIONS[*]} " != *--smoke* && $DEVICE != cpu ]] || shapes=(64,256,32,8)
    # On a machine without a GPU, what it says of itself.
    local device=(--device "$DEVICE")
    [[ $DEVICE != cpu ]] || device=()
    "$KIT/bin/sae-run" doctor >&2
    for shape in "${shapes[@]}"; do
        "$KIT/bin/sae-run" doctor --gpu "${device[@]}" --shape "$shape" --json >"$OUT/doctor-$shape.json.new"
        mv "$OUT/doctor-$shape.json.new" "$OUT/doctor-$shape.json"
    done
    "$KIT/bin/sae-run" doctor --gpu "${device[@]}" --shape "${shapes[0]}"
}

if [[ ${1:-} == --run ]]; then
    run_part "${@:2}"
else
    main "$@"
fi
