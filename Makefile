# Two commands do everything: `make demo` and `make test`. See README.md.

.PHONY: setup demo test docs

setup:
	runner/setup/setup.sh build

demo:
	runner/setup/setup.sh demo
	cargo run -- sweeps/demo.toml

test: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --locked
	$(MAKE) docs

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
