use super::entries::{Entries, EntryWriter};
use crate::{
    api::{TunnelHost, UnreachableBackend},
    controller::Backends,
    routing::ObjectName,
};

/// Writes the backends that this replica cannot reach into the status of their TunnelHosts, for the holder of the lease, which
/// knows only what it has seen itself.
pub(in crate::controller) type BackendWriter = EntryWriter<Unreachable>;

/// Only problems are written, so that nothing is as long as all is well.
pub(in crate::controller) struct Unreachable;

// === impl Unreachable ===

impl Entries for Unreachable {
    type Object = TunnelHost;
    type Entry = UnreachableBackend;
    type Known = Backends;

    const FIELD: &'static str = "unreachable";

    fn desired(known: &Backends, host: &ObjectName, replica: &str) -> Vec<UnreachableBackend> {
        let state = known.get(host).filter(|state| !state.reachable);
        let entry = state.map(|state| UnreachableBackend {
            replica: replica.to_owned(),
            reason: state.reason.as_str().to_owned(),
            message: state.message.clone(),
        });
        entry.into_iter().collect()
    }

    fn current(host: &TunnelHost) -> &[UnreachableBackend] {
        host.status.as_ref().map_or(&[], |status| &status.unreachable)
    }

    fn replica(entry: &UnreachableBackend) -> &String {
        &entry.replica
    }
}
