//! `--config`: flags from a YAML file.

use std::{collections::BTreeMap, ffi::OsString, path::Path};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use serde_json::Value;
use serde_saphyr::Spanned;

/// What cannot be in the file.
const NOT_IN_FILE: [&str; 3] = ["config", "help", "version"];

/// The command line, and behind it as flags what the file has and neither the command line nor the environment gives. All
/// flags, whatever they are, are read in this way, and checked as if they had been typed. Errors name file, line and key.
pub(crate) fn expand(
    mut command: Command,
    subcommand: &str,
    mut arguments: Vec<OsString>,
    file: &Path,
) -> Result<Vec<OsString>, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("--config: cannot read {shown}: {error}"))?;
    // Flags of the whole program get to its subcommands with this.
    command.build();
    let matches = command.clone().get_matches_from(&arguments);
    let (Some(command), Some(matches)) = (command.find_subcommand(subcommand), matches.subcommand_matches(subcommand))
    else {
        return Ok(arguments);
    };
    let flags = flags(command, matches, &text).map_err(|wrong| format!("--config: {shown}{wrong}"))?;
    arguments.extend(flags.into_iter().map(OsString::from));
    Ok(arguments)
}

/// The flags that `text` adds to what was given. Errors begin with the line, as `:LINE: …`.
fn flags(command: &Command, matches: &ArgMatches, text: &str) -> Result<Vec<String>, String> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let settings: BTreeMap<String, Spanned<Value>> =
        serde_saphyr::from_str(text).map_err(|error| format!(": {error}"))?;
    let mut flags = Vec::new();
    for (key, setting) in settings {
        let line = setting.referenced.line();
        let wrong = |what: String| format!(":{line}: {key}: {what}");
        let known = |arg: &&Arg| arg.get_long() == Some(&key) && !NOT_IN_FILE.contains(&key.as_str());
        let arg = command.get_arguments().find(known).ok_or_else(|| wrong(unknown(command)))?;
        let source = matches.value_source(arg.get_id().as_str());
        if matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        match setting.value {
            Value::Null | Value::Bool(false) if is_switch => {}
            Value::Null => {}
            Value::Bool(true) if is_switch => flags.push(format!("--{key}")),
            _ if is_switch => return Err(wrong("it is true or false".to_owned())),
            Value::Array(_) if !matches!(arg.get_action(), ArgAction::Append) => {
                return Err(wrong("it is one value, not a list".to_owned()));
            }
            Value::Array(values) => {
                for value in values {
                    let value =
                        scalar(&value).ok_or_else(|| wrong("its list has something that is no text".to_owned()))?;
                    flags.push(format!("--{key}={value}"));
                }
            }
            value => {
                let value =
                    scalar(&value).ok_or_else(|| wrong("it is a text, a number or a list of them".to_owned()))?;
                flags.push(format!("--{key}={value}"));
            }
        }
    }
    Ok(flags)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn unknown(command: &Command) -> String {
    let longs = command.get_arguments().filter_map(Arg::get_long);
    let mut known: Vec<&str> = longs.filter(|long| !NOT_IN_FILE.contains(long)).collect();
    known.sort_unstable();
    format!("there is no such flag; there are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: super::super::Args,
    }

    fn added(given: &str, text: &str) -> Result<Vec<String>, String> {
        let mut command = <Program as clap::CommandFactory>::command();
        command.build();
        let matches = command.clone().get_matches_from(["agent"].into_iter().chain(given.split_whitespace()));
        flags(&command, &matches, text)
    }

    #[test]
    fn all_kinds_of_flags_are_read() {
        let text = "# comment\nedge: https://edge:7443\nagent: web/lab\nallow:\n- 127.0.0.1:8080\n- app:*\n\
                    insecure-plaintext: true\nadmin: 127.0.0.1:9091\nproxy:\n";
        let flags = added("", text).expect("flags");
        let expected = [
            "--admin=127.0.0.1:9091",
            "--agent=web/lab",
            "--allow=127.0.0.1:8080",
            "--allow=app:*",
            "--edge=https://edge:7443",
            "--insecure-plaintext",
        ];
        assert_eq!(flags, expected);
        assert!(Program::try_parse_from(["agent".to_owned()].into_iter().chain(flags)).is_ok());
        assert_eq!(added("", "# nothing\n"), Ok(Vec::new()));
        assert_eq!(added("", "insecure-plaintext: false"), Ok(Vec::new()));
    }

    #[test]
    fn a_flag_that_is_given_comes_before_the_file() {
        let text = "edge: https://edge\nallow: [a:1, b:2]\n";
        assert_eq!(added("--allow c:3", text), Ok(vec!["--edge=https://edge".to_owned()]));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line() {
        let error = |text: &str| added("", text).expect_err(text);
        let unknown = error("edge: https://edge\ntokenfile: x\n");
        assert!(unknown.starts_with(":2: tokenfile: there is no such flag; there are admin, "), "{unknown}");
        assert!(error("config: other").contains("no such flag"), "no files in files");
        assert_eq!(error("agent: [a/b]"), ":1: agent: it is one value, not a list");
        assert_eq!(error("insecure-plaintext: maybe"), ":1: insecure-plaintext: it is true or false");
        assert_eq!(error("allow: {a: b}"), ":1: allow: it is a text, a number or a list of them");
        assert!(error("edge: [").starts_with(": "), "{}", error("edge: ["));
        assert!(error("edge: a\nedge: b").contains("edge"), "a key that comes twice");
    }
}
