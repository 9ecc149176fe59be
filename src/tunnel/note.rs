use serde::{Deserialize, Serialize};

use super::health::{CheckOrder, HealthReport};

/// What edge and agent tell each other beside the links. On the wire it is JSON with a `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Note {
    /// The edge's first words: who it is, and which replicas the agent should also meet.
    Welcome {
        /// The id of the replica that speaks.
        replica: String,
        /// Its version.
        version: String,
        /// All replicas, the speaking one among them.
        #[serde(default)]
        replicas: Vec<Replica>,
    },
    /// The set of replicas has changed; this is the whole new set.
    Replicas {
        /// All replicas.
        replicas: Vec<Replica>,
    },
    /// The sender is leaving: no new links, the open ones may finish.
    Drain {
        /// How long they may go on, in seconds; an agent that does not say it gives them 5.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<u32>,
    },
    /// Between replicas: which agents the sender holds sessions with, as far as that has changed since it said so last.
    Agents {
        /// Those that it holds now, `namespace/name`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        held: Vec<String>,
        /// Those that it holds no more.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gone: Vec<String>,
    },
    /// The edge wants these checks of backends run, and others no more.
    Checks {
        /// Those that begin.
        #[serde(default)]
        start: Vec<CheckOrder>,
        /// The numbers of those that end.
        #[serde(default)]
        stop: Vec<u32>,
    },
    /// What has become of checks: the agent's answer to the former, and again whenever one changes.
    Health {
        /// One for each that is known, or has changed.
        reports: Vec<HealthReport>,
    },
}

/// The most checks that an edge asks for over one session, and that an agent runs in all: as many fit the notes that may
/// wait to be taken.
pub const MAX_CHECKS: usize = 512;

/// What the lists of a note may have at most, so that it fits a frame.
const MAX_LISTED: usize = 15 * 1024;

/// One process of the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Its id; in a cluster the pod's name.
    pub id: String,
    /// What to dial for it, `host:port`; without it the edge's own URL is dialled until the replica is met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// The kinds that this version knows.
const KINDS: [&str; 6] = ["welcome", "replicas", "drain", "agents", "checks", "health"];

// === impl Note ===

impl Note {
    /// These checks, in as many notes as they need.
    #[must_use]
    pub fn checks(start: Vec<CheckOrder>, stop: Vec<u32>) -> Vec<Self> {
        let stops = pack(stop).into_iter().map(|stop| Self::Checks { start: Vec::new(), stop });
        let starts = pack(start).into_iter().map(|start| Self::Checks { start, stop: Vec::new() });
        stops.chain(starts).collect()
    }

    /// These reports, in as many notes as they need.
    #[must_use]
    pub fn health(reports: Vec<HealthReport>) -> Vec<Self> {
        pack(reports).into_iter().map(|reports| Self::Health { reports }).collect()
    }

    /// The payload of NOTE.
    pub(super) fn encode(&self) -> Vec<u8> {
        // Strings and arrays of them always become JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the payload of NOTE; `None` is a kind that this version does not know, the error says what is wrong.
    pub(super) fn decode(payload: &[u8]) -> Result<Option<Self>, String> {
        #[derive(Deserialize)]
        struct Kind {
            kind: String,
        }

        let Kind { kind } = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        if !KINDS.contains(&&*kind) {
            return Ok(None);
        }
        serde_json::from_slice(payload).map(Some).map_err(|error| error.to_string())
    }
}

/// As many of the items together as fit a note.
fn pack<T: Serialize>(items: Vec<T>) -> Vec<Vec<T>> {
    let (mut packed, mut room) = (Vec::<Vec<T>>::new(), 0);
    for item in items {
        // With its comma. What does not fit any note is refused by the session.
        let size = serde_json::to_vec(&item).map_or(0, |json| json.len() + 1);
        match packed.last_mut() {
            Some(last) if size <= room => last.push(item),
            _ => {
                room = MAX_LISTED;
                packed.push(vec![item]);
            }
        }
        room = room.saturating_sub(size);
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::health::{Check, HealthProblem, HealthReason, HttpCheck};

    fn order(id: u32, path: &str) -> CheckOrder {
        let http = HttpCheck { path: path.to_owned(), host: None, expected: vec![(200, 399)], tls: None };
        let check = Check {
            namespace: "web".into(),
            target: "127.0.0.1:80".into(),
            http: Some(http),
            interval: 10_000,
            timeout: 2000,
            unhealthy_after: 3,
            healthy_after: 2,
        };
        CheckOrder { id, check }
    }

    #[test]
    fn what_does_not_fit_one_note_comes_in_several() {
        let path = "/\"".repeat(256);
        let orders: Vec<_> = (0..100).map(|id| order(id, &path)).collect();
        let notes = Note::checks(orders.clone(), (0..10_000).collect());
        assert!(notes.len() > 5 && notes.iter().all(|note| note.encode().len() <= 16_384));
        let (mut started, mut stopped) = (Vec::new(), 0);
        for note in notes {
            let Note::Checks { start, stop } = note else { panic!("{note:?}") };
            started.extend(start);
            stopped += stop.len();
        }
        assert_eq!((started, stopped), (orders, 10_000));
        assert!(Note::checks(Vec::new(), Vec::new()).is_empty());
        let problem = HealthProblem::new(HealthReason::Refused, &"\"\n".repeat(1000));
        assert_eq!(problem.text, "\"".repeat(HealthProblem::MAX_TEXT));
        let reports: Vec<_> = (0..100).map(|id| HealthReport { id, problem: Some(problem.clone()) }).collect();
        assert!(Note::health(reports).iter().all(|note| note.encode().len() <= 16_384));
    }

    #[test]
    fn a_check_is_as_the_specification_has_it() {
        let note = Note::Checks { start: vec![order(7, "/healthz")], stop: vec![3] };
        assert_eq!(
            String::from_utf8(note.encode()).expect("JSON"),
            r#"{"kind":"checks","start":[{"id":7,"namespace":"web","target":"127.0.0.1:80","http":{"path":"/healthz","expected":[[200,399]]},"interval":10000,"timeout":2000,"unhealthyAfter":3,"healthyAfter":2}],"stop":[3]}"#
        );
        let later = br#"{"kind":"health","reports":[{"id":7,"problem":{"reason":"onFire","since":5}},{"id":8}]}"#;
        let problem = HealthProblem::new(HealthReason::Unexpected, "");
        let reports = vec![HealthReport { id: 7, problem: Some(problem) }, HealthReport { id: 8, problem: None }];
        assert_eq!(Note::decode(later), Ok(Some(Note::Health { reports })));
    }

    #[test]
    fn notes_are_read_back() {
        let address = Some("edge-1.example.com:7443".to_owned());
        let replicas = vec![Replica { id: "edge-0".into(), address: None }, Replica { id: "edge-1".into(), address }];
        let welcome = Note::Welcome { replica: "edge-0".into(), version: "0.1.0".into(), replicas: replicas.clone() };
        let agents = Note::Agents { held: vec!["web/lab".into()], gone: Vec::new() };
        let checks = Note::Checks { start: vec![order(1, "/")], stop: vec![] };
        let health = Note::Health { reports: vec![HealthReport { id: 1, problem: None }] };
        let drains = [None, Some(25)].map(|seconds| Note::Drain { seconds });
        for note in [welcome, Note::Replicas { replicas }, agents, checks, health].into_iter().chain(drains) {
            let value: serde_json::Value = serde_json::from_slice(&note.encode()).expect("JSON");
            assert!(KINDS.contains(&value["kind"].as_str().expect("a kind")));
            assert_eq!(Note::decode(&note.encode()), Ok(Some(note)));
        }
    }

    #[test]
    fn what_a_later_version_adds_is_skipped() {
        assert_eq!(Note::decode(br#"{"kind":"weather","targets":[]}"#), Ok(None));
        assert_eq!(Note::decode(br#"{"kind":"drain","because":"of you"}"#), Ok(Some(Note::Drain { seconds: None })));
    }

    #[test]
    fn anything_else_is_malformed() {
        for payload in [&b""[..], b"[]", b"{}", b"\xff", br#"{"kind":"replicas"}"#] {
            assert!(Note::decode(payload).is_err(), "{payload:?}");
        }
    }
}
