use serde::{Deserialize, Serialize};

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
}

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
const KINDS: [&str; 4] = ["welcome", "replicas", "drain", "agents"];

// === impl Note ===

impl Note {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_back() {
        let address = Some("edge-1.example.com:7443".to_owned());
        let replicas = vec![Replica { id: "edge-0".into(), address: None }, Replica { id: "edge-1".into(), address }];
        let welcome = Note::Welcome { replica: "edge-0".into(), version: "0.1.0".into(), replicas: replicas.clone() };
        let agents = Note::Agents { held: vec!["web/lab".into()], gone: Vec::new() };
        let drains = [None, Some(25)].map(|seconds| Note::Drain { seconds });
        for note in [welcome, Note::Replicas { replicas }].into_iter().chain(drains).chain([agents]) {
            let value: serde_json::Value = serde_json::from_slice(&note.encode()).expect("JSON");
            assert!(KINDS.contains(&value["kind"].as_str().expect("a kind")));
            assert_eq!(Note::decode(&note.encode()), Ok(Some(note)));
        }
    }

    #[test]
    fn what_a_later_version_adds_is_skipped() {
        assert_eq!(Note::decode(br#"{"kind":"health","targets":[]}"#), Ok(None));
        assert_eq!(Note::decode(br#"{"kind":"drain","because":"of you"}"#), Ok(Some(Note::Drain { seconds: None })));
    }

    #[test]
    fn anything_else_is_malformed() {
        for payload in [&b""[..], b"[]", b"{}", b"\xff", br#"{"kind":"replicas"}"#] {
            assert!(Note::decode(payload).is_err(), "{payload:?}");
        }
    }
}
