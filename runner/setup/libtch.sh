# Functions of setup.sh: the C++ between the programs and libtorch, compiled into one folder for each libtorch. The
# interface is the same for each: a program runs on the libtorch whose folder it finds.
#
#   libtch.so                  torch-sys, and what the crate lm has in C++
#   libsae_run_dist_gloo.so    plug-ins of the crate dist: c10d's process groups on Gloo
#   libsae_run_dist_nccl.so    and on NCCL, if CUDA's headers are there
#
#   CXX          the compiler (default: c++)
#   CUDA_HOME    CUDA's toolkit, if its packages are not next to libtorch

# One of each package.
CUDA_HEADERS=(cuda_runtime.h crt/host_defines.h nv/target nccl.h cublas_v2.h cusparse.h cusolverDn.h)

# compiled LIBTORCH: compiles what is missing, and prints the folder. Its name holds a hash of what it is made of.
compiled() {
    local setup=$ROOT/runner/setup lm=$ROOT/runner/lm/shim dist=$ROOT/runner/dist/shim torch_sys sources folder
    torch_sys=$(torch_sys)/libtch
    readarray -t sources < <(find "$torch_sys" "$setup"/{operators.h,glibc.hpp,libtch.sh} "$lm" "$dist" -type f | sort)
    folder=$CACHE/libtch/$(version_of "$1")-$(hash_of "${sources[@]}" <(echo "$1" "${CXX:-c++}"))
    mkdir -p "$folder"
    compile "$folder/libtch.so" "$1" -include "$setup/operators.h" -I "$torch_sys" \
        "$torch_sys"/torch_api{,_generated}.cpp "$lm"/{device,errors}.cpp -w -DGLOG_USE_GLOG_EXPORT \
        -Dats_free=tch_ats_free -Dget_and_reset_last_err=tch_get_and_reset_last_err -Wl,-soname,libtch.so
    compile "$folder/libsae_run_dist_gloo.so" "$1" "$dist/gloo.cpp" -fvisibility=hidden -DUSE_C10D_GLOO -I "$dist/stubs"
    compile_nccl "$folder/libsae_run_dist_nccl.so" "$1" "$dist/nccl.cpp"
    echo "$folder"
}

# compile_nccl LIBRARY LIBTORCH SOURCE
compile_nccl() {
    local packages folders=() folder includes=() header
    packages=$(dirname "$2")/nvidia
    folders=("$packages"/cu13/include{,/cccl} "$packages/nccl/include")
    [[ -z ${CUDA_HOME:-} ]] || folders+=("$CUDA_HOME"/include{,/cccl})
    for header in "${CUDA_HEADERS[@]}"; do
        has_header "$header" "${folders[@]}" || return 0
    done
    for folder in "${folders[@]}"; do
        includes+=(-isystem "$folder")
    done
    compile "$@" -fvisibility=hidden -DUSE_C10D_NCCL "${includes[@]}" -ltorch_cuda -lc10_cuda
}

# has_header NAME FOLDERS
has_header() {
    local folder
    for folder in "${@:2}"; do
        [[ -f $folder/$1 ]] && return
    done
    return 1
}

# compile LIBRARY LIBTORCH [sources and options]
compile() {
    [[ -f $1 ]] && return
    say "compiling $(basename "$1") for libtorch $(version_of "$2") (a minute)"
    # Not with libtorch.so itself, which needs all of CUDA.
    "${CXX:-c++}" "-std=$(standard "$1" "$2")" -O1 -shared -fPIC -isystem "$2/include" -isystem "$2/include/torch/csrc/api/include" \
        -L "$2/lib" "${@:3}" -ltorch_cpu -lc10 -Wl,-rpath,"$2/lib" -o "$1.new" >&2 ||
        fail "$(basename "$1") could not be compiled for libtorch $(version_of "$2")"
    mv "$1.new" "$1"
}

# standard LIBRARY LIBTORCH: C++20 where the headers ask for it. A function of its string streams is in no libstdc++ of
# systems with glibc 2.28.
standard() {
    local version
    version=$(version_of "$2")
    case $1:$version in
        */libtch.so:2.1[123].*) echo c++17 ;;
        *) echo c++20 ;;
    esac
}

# The folder of the crate, which cargo has or fetches.
torch_sys() {
    cargo metadata --format-version 1 --locked --manifest-path "$ROOT/Cargo.toml" | python3 -c '
import json, os, sys
packages = json.load(sys.stdin)["packages"]
print(*(os.path.dirname(p["manifest_path"]) for p in packages if p["name"] == "torch-sys"))'
}
