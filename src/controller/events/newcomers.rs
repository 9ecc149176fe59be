use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use crate::{api::AgentSession, routing::ObjectName};

/// Notices processes and source addresses that an agent has not had before. Pure: sessions and time come in.
#[derive(Debug)]
pub(super) struct Newcomers {
    agents: HashMap<ObjectName, Known>,
    /// Until when nobody of an agent that had no session at the first look is new: after a restart of the edge they come back
    /// within a moment, and who was there before is not known any more.
    quiet_until: Option<Instant>,
    quiet_for: Duration,
    /// The agents with a session at the first look.
    at_first: HashSet<ObjectName>,
}

/// What an agent had, and when it was seen last.
#[derive(Debug, Default)]
struct Known {
    instances: HashMap<String, Instant>,
    addresses: HashMap<IpAddr, Instant>,
}

/// What is new of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// The processes, each with its version and the address it came from.
    instances: BTreeMap<String, (String, IpAddr)>,
    /// Addresses of processes that are not new, each with such a process.
    addresses: BTreeMap<IpAddr, String>,
}

/// How long something that is gone is remembered. A laptop that sleeps over lunch is not new.
const MEMORY: Duration = Duration::from_hours(4);

/// How much of each is remembered for one agent. One that has more is not worth watching one by one.
const REMEMBERED: usize = 1000;

/// How much one text lists before it only counts the rest.
const LISTED: usize = 5;

// === impl Newcomers ===

impl Newcomers {
    /// `quiet_for` is how long after the first look agents may come back unnoticed that had no session then.
    pub(super) fn new(quiet_for: Duration) -> Self {
        Self { agents: HashMap::new(), quiet_until: None, quiet_for, at_first: HashSet::new() }
    }

    /// Looks at all sessions that there are `now`. What is there at the first look is not new.
    pub(super) fn look<'a>(
        &mut self,
        sessions: impl Iterator<Item = (ObjectName, &'a [AgentSession])>,
        now: Instant,
    ) -> Vec<(ObjectName, News)> {
        let first = self.quiet_until.is_none();
        let quiet_until = *self.quiet_until.get_or_insert(now + self.quiet_for);
        let mut all = Vec::new();
        for (agent, sessions) in sessions.filter(|(_, sessions)| !sessions.is_empty()) {
            let news = self.agents.entry(agent.clone()).or_default().look(sessions, now);
            if first {
                self.at_first.insert(agent);
            } else if !news.is_empty() && (now >= quiet_until || self.at_first.contains(&agent)) {
                all.push((agent, news));
            }
        }
        self.agents.retain(|_, known| known.forget(now));
        // Without a time of quiet, as without a cluster, nothing is known before and all of it is news.
        if first && !self.quiet_for.is_zero() { Vec::new() } else { all }
    }
}

// === impl Known ===

impl Known {
    fn look(&mut self, sessions: &[AgentSession], now: Instant) -> News {
        let mut news = News::default();
        for AgentSession { instance, version, remote_address, .. } in sessions {
            let Ok(address) = remote_address.parse::<SocketAddr>() else { continue };
            let address = address.ip().to_canonical();
            let new_instance = self.instances.insert(instance.clone(), now).is_none();
            let new_address = self.addresses.insert(address, now).is_none();
            if new_instance {
                news.instances.insert(instance.clone(), (version.clone(), address));
            } else if new_address && !news.instances.contains_key(instance) {
                news.addresses.insert(address, instance.clone());
            }
        }
        news
    }

    /// Forgets what is long gone; false if nothing is left.
    fn forget(&mut self, now: Instant) -> bool {
        let remembered = |seen: &mut Instant, full: bool| *seen == now || (!full && now - *seen < MEMORY);
        let full = self.instances.len() > REMEMBERED;
        self.instances.retain(|_, seen| remembered(seen, full));
        let full = self.addresses.len() > REMEMBERED;
        self.addresses.retain(|_, seen| remembered(seen, full));
        !self.instances.is_empty()
    }
}

// === impl News ===

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.addresses.is_empty()
    }

    /// What has come since.
    pub(super) fn add(&mut self, later: Self) {
        self.instances.extend(later.instances);
        self.addresses.extend(later.addresses);
    }

    /// In one word, for programs.
    pub(super) fn reason(&self) -> &'static str {
        if self.instances.is_empty() { "NewSourceAddress" } else { "NewInstance" }
    }

    /// In a sentence, for people.
    pub(super) fn text(&self) -> String {
        let mut parts = Vec::new();
        let instances: Vec<String> = self
            .instances
            .iter()
            .map(|(instance, (version, address))| format!("{instance} ({version}) from {address}"))
            .collect();
        if !instances.is_empty() {
            let what = if instances.len() == 1 { "a new process has" } else { "new processes have" };
            parts.push(format!("{what} registered: {}", listed(&instances)));
        }
        let addresses: Vec<String> =
            self.addresses.iter().map(|(address, instance)| format!("{address} (process {instance})")).collect();
        if !addresses.is_empty() {
            let what = if addresses.len() == 1 { "a new address" } else { "new addresses" };
            parts.push(format!("registered from {what}: {}", listed(&addresses)));
        }
        parts.join("; ")
    }
}

fn listed(all: &[String]) -> String {
    match all.get(LISTED..) {
        Some(rest) if !rest.is_empty() => format!("{} and {} more", all[..LISTED].join(", "), rest.len()),
        _ => all.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_secs(30);

    fn session(instance: &str, address: &str) -> AgentSession {
        AgentSession {
            replica: "edge-1".to_owned(),
            instance: instance.to_owned(),
            version: "0.1.0".to_owned(),
            transport: "tls".to_owned(),
            remote_address: format!("{address}:40000"),
            since: String::new(),
            connections: None,
        }
    }

    fn lab() -> ObjectName {
        ObjectName::new("web", "lab")
    }

    /// What is said of the agent at a look.
    fn look(newcomers: &mut Newcomers, sessions: &[AgentSession], now: Instant) -> Option<String> {
        let mut news = newcomers.look([(lab(), sessions)].into_iter(), now);
        assert!(news.len() < 2);
        news.pop().map(|(_, news)| format!("{}: {}", news.reason(), news.text()))
    }

    #[test]
    fn processes_and_addresses_are_new_once() {
        let (mut newcomers, now) = (Newcomers::new(QUIET), Instant::now());
        let old = session("aa", "192.0.2.1");
        assert_eq!(look(&mut newcomers, std::slice::from_ref(&old), now), None, "it was there before");
        let both = [old.clone(), session("bb", "192.0.2.1")];
        assert_eq!(
            look(&mut newcomers, &both, now).as_deref(),
            Some("NewInstance: a new process has registered: bb (0.1.0) from 192.0.2.1")
        );
        assert_eq!(look(&mut newcomers, &both, now), None);
        let moved = [session("aa", "::ffff:192.0.2.9"), both[1].clone()];
        let moved = moved.map(|mut session| {
            session.remote_address = session.remote_address.replace("::ffff:192.0.2.9", "[::ffff:192.0.2.9]");
            session
        });
        assert_eq!(
            look(&mut newcomers, &moved, now).as_deref(),
            Some("NewSourceAddress: registered from a new address: 192.0.2.9 (process aa)")
        );
        // Away for a while, and back.
        let later = now + Duration::from_hours(1);
        assert_eq!(look(&mut newcomers, &[], later), None);
        assert_eq!(look(&mut newcomers, &both, later), None);
        let much_later = later + MEMORY;
        assert_eq!(look(&mut newcomers, &[], much_later), None);
        assert!(look(&mut newcomers, &both, much_later).is_some(), "forgotten");
    }

    #[test]
    fn who_comes_back_after_the_edge_was_restarted_is_not_new() {
        let (mut newcomers, now) = (Newcomers::new(QUIET), Instant::now());
        assert_eq!(look(&mut newcomers, &[], now), None);
        let back = [session("aa", "192.0.2.1")];
        assert_eq!(look(&mut newcomers, &back, now + QUIET / 2), None);
        let another = [back[0].clone(), session("bb", "192.0.2.2")];
        assert!(look(&mut newcomers, &another, now + QUIET).is_some());
    }

    #[test]
    fn without_a_time_of_quiet_all_is_news_and_long_news_are_counted() {
        let (mut newcomers, now) = (Newcomers::new(Duration::ZERO), Instant::now());
        assert_eq!(look(&mut newcomers, &[], now), None);
        let many: Vec<AgentSession> = (0..9).map(|n| session(&format!("{n}"), "192.0.2.1")).collect();
        let text = look(&mut newcomers, &many, now).expect("news");
        assert!(text.starts_with("NewInstance: new processes have registered: 0 (0.1.0) from 192.0.2.1, 1 "), "{text}");
        assert!(text.ends_with(" from 192.0.2.1 and 4 more"), "{text}");
        assert!(text.len() < 1024);
    }
}
