use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use crate::routing::{Backend, ObjectName, RoutingTable};

/// What this replica's own table routes: by which agent a TunnelHost leads to which target.
#[derive(Debug)]
pub(super) struct Routes {
    table: watch::Receiver<Arc<RoutingTable>>,
    /// What was found in the table before: going through it takes a while where it is large.
    found: Mutex<Found>,
}

/// A TunnelHost, an agent and a target.
pub(super) type Way = (ObjectName, ObjectName, String);

#[derive(Debug, Default)]
struct Found {
    /// The table that it was found in.
    table: Arc<RoutingTable>,
    ways: HashSet<Way>,
}

/// A new object may reach the other replica a moment earlier than this one.
const LATE: Duration = Duration::from_secs(1);

// === impl Routes ===

impl Routes {
    pub(super) fn new(table: watch::Receiver<Arc<RoutingTable>>) -> Self {
        Self { table, found: Mutex::default() }
    }

    /// Whether the table has this way; waits a moment for it.
    pub(super) async fn have(&self, way: &Way) -> bool {
        let mut tables = self.table.clone();
        let comes = async {
            loop {
                let table = tables.borrow_and_update().clone();
                if self.has(&table, way) {
                    return true;
                }
                if tables.changed().await.is_err() {
                    return false;
                }
            }
        };
        timeout(LATE, comes).await.unwrap_or(false)
    }

    fn has(&self, table: &Arc<RoutingTable>, way: &Way) -> bool {
        let found = || self.found.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut found = found();
            if !Arc::ptr_eq(&found.table, table) {
                *found = Found { table: table.clone(), ways: HashSet::new() };
            }
            if found.ways.contains(way) {
                return true;
            }
        }
        let (host, agent, target) = way;
        let has = table.rules().filter(|rule| rule.id.object == *host).any(|rule| match &rule.backend {
            Backend::Tunnel(backend) => {
                backend.places.all().iter().any(|place| place.agent == *agent && place.target.as_str() == target)
            }
            _ => false,
        });
        if has {
            let mut found = found();
            if Arc::ptr_eq(&found.table, table) {
                found.ways.insert(way.clone());
            }
        }
        has
    }
}
