//! What the agent may connect to: the flags, and the files that can change while it runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tokio::sync::watch;

use super::Args;
use crate::{
    agent::{AllowList, AllowRule},
    cli,
};

/// Where the rules come from.
#[derive(Debug)]
pub(super) struct Allowed {
    flags: Vec<AllowRule>,
    file: Option<PathBuf>,
    /// Where some of these flags may come from.
    config: Option<PathBuf>,
}

// === impl Allowed ===

impl Allowed {
    pub(super) fn of(args: &Args) -> Self {
        Self { flags: args.allow.clone(), file: args.allow_file.clone(), config: args.config.clone() }
    }

    /// All rules as they are now. Errors name the flag, the file and the line.
    pub(super) fn read(&self) -> Result<Vec<AllowRule>, String> {
        let mut rules = self.flags.clone();
        if let Some(file) = &self.file {
            rules.extend(read(file)?);
        }
        Ok(rules)
    }

    /// As [`read`](Self::read), with what the configuration file says now. What else is in it holds from the start.
    fn read_again(&self) -> Result<Vec<AllowRule>, String> {
        match &self.config {
            Some(config) => Self::of(&cli::agent_again(config)?).read(),
            None => self.read(),
        }
    }

    /// Puts them into the list again whenever that is asked for, for ever. A file that is wrong changes nothing.
    pub(super) async fn follow(self, list: AllowList, mut asked: watch::Receiver<()>) {
        while asked.changed().await.is_ok() {
            match self.read_again() {
                Ok(_) if self.file.is_none() && self.config.is_none() => {
                    tracing::info!("there is neither --allow-file nor --config to read again");
                }
                Ok(rules) => {
                    tracing::info!(
                        rules = rules.len(),
                        "what is allowed was read again; all else is as it was at the start"
                    );
                    list.replace(rules);
                }
                Err(wrong) => tracing::error!("{wrong}; what was allowed before still is"),
            }
        }
        // Where the system has no such signal, nobody will ever ask.
        std::future::pending::<()>().await;
    }
}

/// The rules of a file, one a line; `#` begins a comment.
fn read(file: &Path) -> Result<Vec<AllowRule>, String> {
    let shown = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("--allow-file: cannot read {shown}: {error}"))?;
    let rule = |(index, line): (usize, &str)| {
        let rule = line.split_once('#').map_or(line, |(rule, _)| rule).trim();
        let parsed = rule.parse().map_err(|error| format!("--allow-file: {shown}, line {}: {error}", index + 1));
        (!rule.is_empty()).then_some(parsed)
    };
    text.lines().enumerate().filter_map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_rule_a_line_and_is_wrong_as_a_whole() {
        let file = std::env::temp_dir().join(format!("culvert-allow-{}", std::process::id()));
        let rules = |text: &str| {
            fs::write(&file, text).expect("a file");
            let allowed =
                Allowed { flags: vec!["a:1".parse().expect("a rule")], file: Some(file.clone()), config: None };
            let rules = allowed.read();
            rules.map(|rules| rules.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(rules("").as_deref(), Ok(&["a:1".to_owned()][..]));
        let text = "# backends\n\n127.0.0.1:80\n  web=*.svc:80-90  # those of web\r\nunix:/run/app.sock\n";
        assert_eq!(
            rules(text).as_deref(),
            Ok(&["a:1", "127.0.0.1:80", "web=*.svc:80-90", "unix:/run/app.sock"].map(str::to_owned)[..])
        );
        let error = rules("127.0.0.1:80\n127.0.0.1\n").expect_err("wrong");
        assert!(error.starts_with("--allow-file: ") && error.contains(", line 2: it has no port"), "{error}");
        let _ = fs::remove_file(&file);
        let gone = Allowed { flags: Vec::new(), file: Some(file), config: None };
        assert!(gone.read().expect_err("gone").starts_with("--allow-file: cannot read "));
    }
}
