use std::sync::Arc;

use parking_lot::Mutex;

use super::session::AgentSession;
use crate::{routing::ObjectName, tunnel::registration::Registration};

/// Which slots registrations were given that are no sessions yet. Two dials of a process that reach this replica at the same
/// time say the same of what it holds: one after the other, each gets another slot.
#[derive(Debug, Default)]
pub(super) struct Slots(Arc<Mutex<Vec<Given>>>);

/// A slot that is nobody else's until this is dropped, or is listed as a session's.
#[derive(Debug)]
pub(super) struct Promise {
    given: Given,
    all: Arc<Mutex<Vec<Given>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    agent: ObjectName,
    instance: String,
    slot: u32,
}

// === impl Slots ===

impl Slots {
    /// The lowest slot that the process does not hold with this replica, by what it says, and neither by `sessions`, which are its
    /// agent's. Where there is none, the lowest by what it says: of a session that was lost the process knows first. `None` where
    /// it says that it holds all.
    pub(super) fn promise(
        &self,
        agent: &ObjectName,
        registration: &Registration,
        replica: &str,
        sessions: impl FnOnce() -> Vec<Arc<AgentSession>>,
    ) -> Option<Promise> {
        let mut all = self.0.lock();
        // Looked at behind the lock, so that what was promised is in the one or in the other.
        let sessions = sessions();
        let give = |slot| Given { agent: agent.clone(), instance: registration.instance.clone(), slot };
        let is_held =
            |slot| sessions.iter().any(|session| *session.instance == *registration.instance && session.slot == slot);
        let mut free = registration.free_slots(replica).map(give);
        let given = free.clone().find(|given| !all.contains(given) && !is_held(given.slot)).or_else(|| free.next())?;
        all.push(given.clone());
        Some(Promise { given, all: self.0.clone() })
    }
}

// === impl Promise ===

impl Promise {
    pub(super) fn slot(&self) -> u32 {
        self.given.slot
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(index) = all.iter().position(|given| *given == self.given) {
            all.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::registration::Token;

    fn registration(instance: &str, slots: u32, met: &[u32]) -> Registration {
        Registration {
            agent: "web/lab".into(),
            token: Token::new("0123456789abcdef").expect("a token"),
            instance: instance.into(),
            version: "0".into(),
            slots,
            met: [("r1".to_owned(), met.iter().copied().collect())].into(),
        }
    }

    #[test]
    fn two_at_once_get_two_slots() {
        let slots = Slots::default();
        let agent = ObjectName::new("web", "lab");
        let promise = |registration: &Registration| slots.promise(&agent, registration, "r1", Vec::new);
        let slot = |promise: &Option<Promise>| promise.as_ref().map(Promise::slot);
        let two = registration("0a", 2, &[]);
        let (first, second) = (promise(&two), promise(&two));
        assert_eq!((slot(&first), slot(&second)), (Some(0), Some(1)));
        // Another process has its own; and where there is no other, the process knows best.
        assert_eq!(slot(&promise(&registration("0b", 2, &[]))), Some(0));
        assert_eq!(slot(&promise(&two)), Some(0));
        drop(second);
        assert_eq!(slot(&promise(&two)), Some(1));
        assert_eq!(slot(&promise(&registration("0a", 2, &[1]))), Some(0), "the process says that it holds the other");
        assert_eq!(slot(&promise(&registration("0a", 2, &[0, 1]))), None);
        drop(first);
        assert!(slots.0.lock().is_empty());
    }
}
