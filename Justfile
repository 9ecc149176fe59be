# The recipes of this project; each is one or two commands that can as well be typed. CI is .ci/run, which needs no just.

cluster := env("CULVERT_CLUSTER", justfile_directory() / "tests/cluster/cluster")

# What there is.
default:
    @just --list

# Unit and behaviour tests: they need nothing but `python3`.
test *args:
    cargo test --locked {{ args }}

# Everything that needs no compiler's verdict on behaviour: format, lints, dependencies, chart.
lint:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked --test e2e -- -D warnings
    cargo deny check bans licenses sources
    helm lint --strict charts/culvert
    helm lint --strict charts/culvert-agent --set 'edge={https://edge},agent=web/lab,token.secret=lab'

# Writes the CustomResourceDefinitions (into the chart's folder, which `crds` points to) and docs/crds.md from the types.
crds:
    CULVERT_GENERATE=1 cargo test --locked --lib api

# The real cluster, with the image loaded.
up:
    {{ cluster }} build
    {{ cluster }} up
    CULVERT_CLUSTER={{ cluster }} tests/cluster/image

# Ends the real cluster.
down:
    {{ cluster }} down

# End-to-end tests on the cluster that `just up` started.
e2e *args:
    cargo test --locked --test e2e --no-run
    CULVERT_CLUSTER={{ cluster }} {{ cluster }} exec cargo test --locked --test e2e -- --nocapture {{ args }}

# The same on a kind cluster, where Docker exists.
kind *args:
    just cluster={{ justfile_directory() / "tests/cluster/kind" }} up e2e {{ args }}

# What the tunnel costs beside one nginx hop and rathole: a table, in about 7 minutes; `just bench --quick` for a glance.
bench *args:
    tests/bench/run {{ args }}

# Others' test suites against a running Culvert, all or by name; `just conformance --list` names them.
conformance *args:
    tests/conformance/run {{ args }}

# What visitors notice when something fails, all scenarios or by name; `just faults --list` names them, `--quick` is for a glance.
faults *args:
    tests/faults/run {{ args }}

# All orders of what can happen to links, so many steps further than `just test` goes: 2 is half a minute, 3 some minutes.
model deeper="2":
    CULVERT_MODEL_DEEPER={{ deeper }} cargo test --locked --release --lib tunnel::machine::tests::exhaustive -- --nocapture

# Fuzzes the wire for 24 CPU-minutes, all targets or by name; needs the nightly toolchain and cargo-fuzz.
fuzz *args:
    fuzz/run {{ args }}

# The same on the cluster that `just up` started: rollouts, scaling, pods that are killed, agents behind NAT, 200 agents.
faults-cluster *args:
    {{ cluster }} exec tests/faults/run cluster scaled {{ args }}

# Checks that the agent's sources compile for other systems; rustup brings the standard libraries of those.
portability *args:
    tests/portability/run {{ args }}
