# Two commands do everything: `make demo` and `make test`. See README.md.

.PHONY: setup demo wheel test test-processors test-torch test-oldest-torch test-wheel fuzz soak docs bench bench-peer bench-gpu \
    gpu-kit gpu-kit-rehearsal

TARGET = $(or $(CARGO_TARGET_DIR),target)
MEASURED = $(TARGET)/bench/$@-$(shell date -u +%Y%m%d-%H%M%S).json

# All programs, with the features of dependencies that the tests have: cargo compiles them anew for any other choice, which
# takes minutes. Naming an example makes that choice.
PROGRAMS = cargo build --locked --workspace --bins --example compile_engine

setup:
	runner/setup/setup.sh build

demo:
	runner/setup/setup.sh demo
	$(PROGRAMS)
	$(TARGET)/debug/sae-run sweeps/demo.toml

# dist/sae_run-VERSION-py3-none-manylinux_2_28_x86_64.whl; half an hour the first time, with downloads of 6 GB.
wheel: setup
	runner/setup/wheel.sh release

# Goes on behind a check that fails, and ends with one summary.
test: setup
	python3 tests/checks/run.py all

# What computes, as other processors would, with other numbers of threads and other memory.
test-processors: setup
	python3 tests/checks/run.py processors

# What computes, trains and resumes, on another libtorch: VERSION=2.15.0, or what else `setup.sh torches` prints.
test-torch: setup
	python3 tests/checks/run.py torch $(VERSION)

# The same on the first of them.
test-oldest-torch:
	$(MAKE) test-torch VERSION=$$(runner/setup/setup.sh torches | head -n 1)

# The wheel from an installation in fresh environments to results, beside the oldest PyTorch and the newest. It has the
# programs that `make test` builds; WHEEL=release tests the one that `make wheel` builds.
WHEEL = dev
test-wheel: setup
	python3 tests/checks/run.py wheel $(WHEEL)

# Files and messages of others with damage of all kinds: the tests called `any_bytes`, with more cases than
# `make test` takes, and with a bound for the memory that a few bytes may ask for.
fuzz: CASES = 20000
fuzz: setup
	cargo test --workspace --locked --no-run
	ulimit -v 16777216 && PROPTEST_CASES=$(CASES) cargo test --workspace --locked any_bytes

# Kills at random moments for half an hour, compared with undisturbed runs; SOAK="--kills 20" is shorter.
soak: setup
	$(PROGRAMS) --example serve
	python3 tests/checks/soak.py $(SOAK)

# The documentation of the code, and the book of docs/ in target/book.
docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
	@if command -v mdbook >/dev/null; then mdbook build docs; \
	else echo "mdBook is not installed: the book of docs/ is left out (cargo install mdbook)"; fi

# An SAE's update in encoder products, some minutes; BENCH="--smoke" takes seconds.
bench: setup
	$(PROGRAMS) --example bench_step
	$(TARGET)/debug/examples/bench_step --json $(MEASURED) $(BENCH)

# The same, whole runs and sweeps beside sparsify, dictionary_learning and SAELens: longer, and 6 GB on disk the
# first time. BENCH="--parts kinds" measures one part.
bench-peer:
	python=$$(runner/setup/setup.sh peer) && \
	$(PROGRAMS) --example bench_step && \
	"$$python" runner/bench/bench_peer.py $(TARGET)/debug/sae-run $(TARGET)/debug/examples/bench_step \
	    --json $(MEASURED) $(BENCH)

# An update on an NVIDIA GPU, behind its agreement with the CPU; looks for the GPU before anything is built.
bench-gpu:
	python3 runner/bench/bench_gpu.py --look $(BENCH)
	$(MAKE) setup
	$(PROGRAMS) --example bench_step
	python3 runner/bench/bench_gpu.py $(TARGET)/debug/examples/bench_step --json $(MEASURED) $(BENCH)

# One file that checks and measures all this on a machine with a GPU, PyTorch 2.11, and neither network nor Rust:
# runner/bench/gpu/check.sh in it says how.
gpu-kit: setup
	$(PROGRAMS) --example bench_step --example one_rank
	runner/bench/gpu/pack.sh $(TARGET) gpu-kit

# The kit on the CPU, in an empty folder; KIT="--parts 1,2" needs only libtorch 2.11, the others a whole PyTorch.
gpu-kit-rehearsal: gpu-kit
	runner/bench/gpu/rehearse.sh gpu-kit/sae-run-gpu-kit.tar.xz $(KIT)
