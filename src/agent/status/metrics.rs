use std::{collections::BTreeMap, fmt::Write as _};

use super::snapshot::{REFUSALS, Snapshot};

/// The text of `/metrics`, in the form of Prometheus.
///
/// Written by hand: a registry of metrics is more code than these few, and the agent is to stay small.
pub(super) fn text(snapshot: &Snapshot) -> String {
    let mut text = Text::default();
    let version = [("version", snapshot.version.as_str())];
    text.family("culvert_agent_info", "gauge", "The version of the agent's program, as a label of the number 1.");
    text.sample("culvert_agent_info", &version, 1);
    text.family("culvert_agent_start_time_seconds", "gauge", "When the agent was started, in seconds since 1970.");
    text.sample("culvert_agent_start_time_seconds", &[], snapshot.started);

    let mut tunnels = BTreeMap::<_, u64>::new();
    let mut trips = BTreeMap::<&str, f64>::new();
    for session in &snapshot.sessions {
        *tunnels.entry((session.replica.as_str(), session.transport.as_str())).or_default() += 1;
        if let Some(millis) = session.round_trip_millis {
            let longest = trips.entry(&session.replica).or_default();
            *longest = longest.max(millis / 1e3);
        }
    }
    text.family("culvert_agent_tunnels", "gauge", "Sessions with a replica of the edge.");
    for ((replica, transport), count) in tunnels {
        text.sample("culvert_agent_tunnels", &[("replica", replica), ("transport", transport)], count);
    }
    let help =
        "The round trip to a replica: of each of its sessions the shortest of the last few, of these the longest.";
    text.family("culvert_agent_round_trip_seconds", "gauge", help);
    for (replica, seconds) in trips {
        text.sample("culvert_agent_round_trip_seconds", &[("replica", replica)], seconds);
    }

    text.family("culvert_agent_links", "gauge", "Links that are open now.");
    text.sample("culvert_agent_links", &[], snapshot.links.open);
    text.family("culvert_agent_link_opens_total", "counter", "Links that the edge wanted, by what came of them.");
    text.sample("culvert_agent_link_opens_total", &[("result", "accepted")], snapshot.links.accepted);
    for (_, result) in REFUSALS {
        let count = snapshot.links.refused.get(result).copied().unwrap_or_default();
        text.sample("culvert_agent_link_opens_total", &[("result", result)], count);
    }
    let help = "Bytes of links: received is edge to target, sent is target to edge.";
    text.family("culvert_agent_link_bytes_total", "counter", help);
    text.sample("culvert_agent_link_bytes_total", &[("direction", "received")], snapshot.flow.received);
    text.sample("culvert_agent_link_bytes_total", &[("direction", "sent")], snapshot.flow.sent);

    let help = "Dials to the edge by what came of them; already_met is a balancer that led to a replica once more.";
    text.family("culvert_agent_dials_total", "counter", help);
    let dials = &snapshot.dials;
    for (result, count) in
        [("connected", dials.connected), ("already_met", dials.already_met), ("failed", dials.failed)]
    {
        text.sample("culvert_agent_dials_total", &[("result", result)], count);
    }
    text.0
}

#[derive(Default)]
struct Text(String);

// === impl Text ===

// Writing to a String cannot fail.
impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{value}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_their_labels() {
        let mut text = Text::default();
        text.sample("a", &[], 1);
        text.sample("b", &[("one", "x\"\\"), ("two", "y")], 2.5);
        assert_eq!(text.0, "a 1\nb{one=\"x\\\"\\\\\",two=\"y\"} 2.5\n");
    }
}
