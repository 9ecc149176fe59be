//! End to end, on a real cluster: the chart is installed by Helm, objects are applied by kubectl, agents are processes
//! outside the pods, visitors speak real HTTP and WebSocket.
//!
//! `just e2e` runs it inside the cluster's network (`tests/cluster`). The tests share one installation and run one after
//! the other; what a test changes it owns, by namespace and hostname, and a fault that it stages it also heals.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod agent_chart;
mod balancer;
mod changes;
mod chart;
mod faults;
mod harness;
mod health;
mod install;
mod permission;
mod replicas;
mod scope;
mod tls;
mod traffic;
