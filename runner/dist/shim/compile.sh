#!/usr/bin/env bash
# Compiles the plug-ins for one libtorch: the one on Gloo always, the one on NCCL if CUDA's headers are next
# to libtorch, as they are with the whole package of PyTorch, or in CUDA_HOME.
#
#   compile.sh LIBTORCH FOLDER    LIBTORCH has lib/ and include/; the libraries go to FOLDER
#
#   CXX    the compiler (default: c++)
#
# Prints the headers of CUDA that it found.
set -euo pipefail

SHIM=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TORCH=$(cd "$1" && pwd)
INTO=$2
PACKAGES=$(dirname "$TORCH")/nvidia
# Of the packages that PyTorch's comes with and of the two that it does not name (nvidia-cuda-crt,
# nvidia-cuda-cccl); or those of a CUDA toolkit.
CUDA_FOLDERS=("$PACKAGES"/cu13/include{,/cccl} "$PACKAGES/nccl/include" ${CUDA_HOME:+"$CUDA_HOME"/include{,/cccl}})
# One of each package.
CUDA_HEADERS=(cuda_runtime.h crt/host_defines.h nv/target nccl.h cublas_v2.h cusparse.h cusolverDn.h)

main() {
    local folder includes=()
    compile gloo -DUSE_C10D_GLOO -I "$SHIM/stubs"
    has_cuda || return 0
    for folder in "${CUDA_FOLDERS[@]}"; do
        includes+=(-isystem "$folder")
    done
    compile nccl -DUSE_C10D_NCCL "${includes[@]}" -ltorch_cuda -lc10_cuda
}

# compile NAME [what it needs besides libtorch's CPU half]
compile() {
    local library=$INTO/libsae_run_dist_$1.so
    # Without optimisation the headers' inline functions are slow and large. The rpath is for use without the
    # program around it; the program has loaded libtorch by then.
    "${CXX:-c++}" -std=c++20 -O1 -shared -fPIC -fvisibility=hidden "$SHIM/$1.cpp" -o "$library.new" \
        -isystem "$TORCH/include" -isystem "$TORCH/include/torch/csrc/api/include" -L "$TORCH/lib" \
        "${@:2}" -ltorch_cpu -lc10 -Wl,-rpath,"$TORCH/lib"
    mv "$library.new" "$library"
}

has_cuda() {
    local header n_found=0
    for header in "${CUDA_HEADERS[@]}"; do
        find_header "$header" && n_found=$((n_found + 1))
    done
    ((n_found == ${#CUDA_HEADERS[@]}))
}

find_header() {
    local folder
    for folder in "${CUDA_FOLDERS[@]}"; do
        [[ -f $folder/$1 ]] && echo "$folder/$1" && return
    done
    return 1
}

main
