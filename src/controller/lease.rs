use std::time::Duration;

use kube::Client;
use kube_lease_manager::LeaseManagerBuilder;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::pauses::Pauses;

/// How long a lease is valid without being renewed, in seconds: the longest time that nobody writes conditions after the
/// holder died, or gave it back, as others look again only when it would have ended.
const VALID_SECONDS: u64 = 10;

/// How long before its end a lease is renewed, in seconds.
const RENEW_BEFORE_SECONDS: u64 = 6;

/// How long a shutdown waits for the lease to be given back.
const RELEASE: Duration = Duration::from_secs(2);

/// Competes for a Lease until `shutdown`, then gives it back. `holder` says whether this replica has it.
pub(super) async fn compete(
    client: Client,
    namespace: &str,
    name: &str,
    identity: &str,
    holder: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    let mut pauses = Pauses::default();
    let mut failing = false;
    loop {
        let lease = LeaseManagerBuilder::new(client.clone(), name)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(VALID_SECONDS)
            .with_grace(RENEW_BEFORE_SECONDS);
        let built = tokio::select! {
            built = lease.build() => built,
            () = shutdown.cancelled() => return,
        };
        let manager = match built {
            Ok(manager) => manager,
            Err(error) => {
                if failing {
                    debug!(lease = name, namespace, "still no lease: {error}");
                } else {
                    warn!(lease = name, namespace, "the lease cannot be read or made, this is tried again: {error}");
                }
                failing = true;
                let pause = tokio::time::sleep(pauses.after_failure());
                tokio::select! {
                    () = pause => continue,
                    () = shutdown.cancelled() => return,
                }
            }
        };
        failing = false;
        let (mut held, task) = manager.watch().await;
        loop {
            let changed = tokio::select! {
                changed = held.changed() => changed,
                () = shutdown.cancelled() => {
                    holder.send_replace(false);
                    // Without a receiver the manager releases the lease and ends.
                    drop(held);
                    let _ = tokio::time::timeout(RELEASE, task).await;
                    return;
                }
            };
            if changed.is_err() {
                holder.send_replace(false);
                break;
            }
            let held = *held.borrow_and_update();
            info!(lease = name, held, "the lease has changed hands");
            holder.send_replace(held);
        }
    }
}
