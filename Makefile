# The commands of this project. `make demo` and `make test` do their own set-up.
.PHONY: help demo test lint bench bench-control parity fuzz images cluster cluster-down e2e-kubernetes conformance

help:            ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 18

demo:            ## start the mesh on this machine and show real traffic going through it (ONCE=1, or no terminal: the tour, by itself)
	@scripts/packages.sh demo
	@cargo build --workspace --bins
	@if [ -n "$(ONCE)" ] || ! [ -t 0 ] || ! [ -t 1 ]; then once=--once; fi; exec target/debug/isthmus up $$once

test:            ## every test that needs no cluster: tables, simulation, network namespaces
	@scripts/packages.sh test
	@scripts/test.sh

lint:            ## clippy, as strict as CI
	cargo clippy --workspace --all-targets -- -D warnings

parity:          ## which required rows have a test, and why the others have none
	@scripts/parity.sh

fuzz:            ## made-up bytes into each parser of bytes that a peer sends (SECONDS_EACH=60, NAMES="dns crl")
	@cargo run -q -p fuzz -- --seconds-each $(or $(SECONDS_EACH),10) $(NAMES)

bench:           ## speed and memory beside a chain of two plain HAProxy (as root; ARGS="--only bulk", "--help")
	@scripts/packages.sh bench
	@cargo build --release -p ztunnel -p isthmus -p istiod-lite -p mesh-cni -p bench
	@cargo build --release -p waypoint --example plain
	@mkdir -p target/bench && target/release/bench --png target/bench/ratios.png $(ARGS)

bench-control:   ## the controller beside an API server with 10,000 pods (KUBECONFIG=..., of one that is nobody else's; ARGS="--help")
	@cargo build --release -p istiod-lite --bin istiod-lite --example bench-control
	@KUBECONFIG=$(KUBECONFIG) target/release/examples/bench-control $(ARGS)

images:          ## the images, static and from scratch, as archives in target/images (ARGS="--hub HUB --tag TAG --arch arm64")
	@scripts/packages.sh images
	@scripts/images.sh $(ARGS)

cluster:         ## a real Kubernetes of two nodes on this machine (as root; e2e/cluster/cluster help)
	@e2e/cluster/cluster up

cluster-down:    ## remove it without a trace
	@e2e/cluster/cluster down

e2e-kubernetes:  ## the mesh on that cluster, or on the one of KUBECONFIG: install, enrol, prove, remove
	@scripts/e2e-kubernetes.sh $(ARGS)

conformance:     ## the conformance suite of the Gateway API, its mesh profiles, on that cluster; writes docs/conformance (as root)
	@e2e/conformance/run $(ARGS)
