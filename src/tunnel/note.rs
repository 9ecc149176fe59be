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
    Drain,
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
