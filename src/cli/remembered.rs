//! Which agents an edge without a cluster had, over its restarts.

use std::{fs, io, path::Path, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use crate::{bridge, routing::ObjectName};

/// Changes within this time are written at once, as when all agents come back.
const PAUSE: Duration = Duration::from_millis(200);

/// A file with the agents that have a session, a line each. An edge that starts waits for those before it takes visitors, who would
/// else be told for a moment that nobody is there.
pub(super) struct Remembered {
    file: PathBuf,
    /// What was in it at the start.
    pub(super) agents: Arc<[ObjectName]>,
}

// === impl Remembered ===

impl Remembered {
    /// Reads what was kept in the state directory; nothing where nothing was, or where it cannot be read.
    pub(super) fn read(state: &Path) -> Self {
        let file = state.join("agents");
        let text = fs::read_to_string(&file).unwrap_or_default();
        Self { file, agents: text.lines().filter_map(|line| line.parse().ok()).collect() }
    }

    /// Keeps it up to date, until it is dropped: the sessions that end with the edge are those to remember.
    pub(super) async fn follow(&self, mut live: watch::Receiver<bridge::Sessions>) {
        let mut written = self.agents.to_vec();
        loop {
            let mut agents: Vec<_> = live.borrow_and_update().iter().map(|session| session.agent.clone()).collect();
            agents.sort_unstable();
            agents.dedup();
            if agents != written {
                if let Err(error) = self.write(&agents) {
                    let file = self.file.display();
                    tracing::warn!(
                        "cannot keep the agents' names in {file} for the next start: {error}; check --state"
                    );
                }
                written = agents;
            }
            if live.changed().await.is_err() {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    /// Whoever reads it finds the old list or the new one.
    fn write(&self, agents: &[ObjectName]) -> io::Result<()> {
        let text: String = agents.iter().flat_map(|agent| [agent.to_string(), "\n".to_owned()]).collect();
        let new = self.file.with_extension("new");
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&new, text)?;
        fs::rename(new, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let folder = std::env::temp_dir().join(format!("culvert-remembered-{:016x}", rand::random::<u64>()));
        let nothing = Remembered::read(&folder);
        assert!(nothing.agents.is_empty());
        let agents = [ObjectName::new("web", "lab"), ObjectName::new("web", "office")];
        nothing.write(&agents).expect("written");
        assert_eq!(*Remembered::read(&folder).agents, agents);
        fs::remove_dir_all(folder).expect("removed");
    }
}
