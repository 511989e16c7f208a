# Everything a person does with this repository. Each command does its own set-up.

.PHONY: help demo test bench fuzz docs lint wasm build clean

help: ## Shows this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 10

demo: build ## Runs the whole story on this machine, with three nodes: publish, bind, run, watch, crash, join, move, kill
	target/release/starlane demo --bundles target/bundles

test: wasm ## Runs all tests
	-@scripts/net-tools
	-@scripts/node-tools
	-@scripts/etcd >/dev/null
	cargo test --release --workspace --quiet

bench: build ## Runs all benchmarks; prints a table and writes target/bench/*.json
	scripts/bench

fuzz: ## Fuzzes every parser and decoder for a minute each
	scripts/setup
	fuzz/run 60

docs: ## Builds the API documentation
	RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps

lint: ## Checks formatting, lints and dependencies
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	scripts/deny

wasm: ## Builds the examples' mechtrons and lays out their bundles in target/bundles
	scripts/setup
	examples/build

# With the features of the whole workspace, as the tests are built, so that the Wasm engine is built once.
build: wasm ## Builds the starlane binary
	cargo build --release --workspace --bin starlane

clean: ## Removes everything that was built
	cargo clean
