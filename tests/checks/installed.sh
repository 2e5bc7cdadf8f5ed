#!/usr/bin/env bash
# Installs the wheel into a fresh environment beside a PyTorch and uses it as a user does: no cargo, no compiler.
#
#   installed.sh VERSION [PYTHON]    a PyTorch that the programs run on; PYTHON: one that has the whole package of it,
#                                    and what the notebook imports. Without it, an eighth of the demo is trained
set -euo pipefail
shopt -s inherit_errexit

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${SAE_RUN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sae-run}
VERSION=$1
PYTHON=${2:-}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

main() {
    local start
    "$ROOT/runner/setup/setup.sh" demo
    make_environment
    export PATH=$WORK/env/bin:/usr/bin:/bin
    unset VIRTUAL_ENV CONDA_PREFIX LD_LIBRARY_PATH
    cd "$WORK"
    ! command -v cargo >/dev/null || fail 'cargo is on PATH'
    start=$(date +%s)
    pip install --quiet --disable-pip-version-check "$ROOT"/dist/sae_run-*.whl
    touch installed
    says "libtorch   $VERSION*of \`sae-run\`" sae-run doctor
    if [[ -n $PYTHON ]]; then
        sae-run "$ROOT/sweeps/demo.toml" --set runs_dir=runs
        echo "from pip install to the demo's results: $(($(date +%s) - start)) s"
    else
        sae-run "$ROOT/sweeps/demo.toml" --set runs_dir=runs --set train.max_examples=64 --set train.save_every=4
    fi
    says 'layers.10' python -c 'import sae_run; print(sae_run.results().to_string())'
    start_time
    nothing_was_written
    with_whole_package
}

# Only PyTorch is taken from elsewhere: it is large.
make_environment() {
    local from=${PYTHON:-$CACHE/torch/$VERSION/bin/python}
    [[ -n $PYTHON ]] || "$ROOT/runner/setup/setup.sh" torch "$VERSION" >/dev/null
    python3 -m venv "$WORK/env"
    packages_of "$from" >"$(packages_of "$WORK/env/bin/python")/torch-of-another.pth"
}

# packages_of PYTHON: prints their folder.
packages_of() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

fail() {
    echo "error: $1" >&2
    exit 1
}

# says PATTERN COMMAND...
says() {
    local output
    output=$("${@:2}") || fail "${*:2} failed"
    printf '%s\n' "$output"
    # shellcheck disable=SC2053
    [[ $output == *$1* ]] || fail "${*:2} does not say: $1"
}

# The environment may be read-only.
nothing_was_written() {
    local written
    written=$(find env/share env/bin -newer installed)
    [[ -z $written ]] || fail "written to the environment: $written"
}

# The median of 11 starts, in ms.
start_time() {
    local ms
    ms=$(python - <<'END'
import statistics, subprocess, time
def once():
    start = time.monotonic()
    subprocess.run(["sae-run", "ls"], check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.monotonic() - start)
print(round(statistics.median(once() for _ in range(11))))
END
)
    echo "sae-run ls: $ms ms"
    ((ms < 60)) || fail 'sae-run ls takes 60 ms or more'
}

# What imports PyTorch.
with_whole_package() {
    if [[ -z $PYTHON ]]; then
        echo 'not run without the whole PyTorch: sparsify, the notebook'
        return
    fi
    SPARSIFY_DISABLE_TRITON=1 python - <<'END'
import sae_run, sparsify, torch
shown = sae_run.show(sae_run.results()["job_id"][0])
ours = sae_run.load(shown["job_id"])
theirs = sparsify.Sae.load_many(f"runs/{shown['dir']}", local=True)
assert ours.keys() == theirs.keys() and ours
for name, sae in ours.items():
    x = torch.randn(5, sae.d_in)
    torch.testing.assert_close(sae(x).sae_out, theirs[name](x).sae_out)
    print(f"{name}: as in sparsify")
END
    SAE_RUN_PROGRAM=$(command -v sae-run) python -m pytest -q "$ROOT/tests/python/test_notebook.py" "$ROOT/tests/python/test_run.py"
}

main
