use kube::core::cel::{Message, Rule};

/// The rule of a field that holds a duration: its form, and its bounds, which are durations themselves.
pub(super) fn between(least: &str, most: &str) -> Rule {
    let rule = format!(
        r"self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('{least}') && duration(self) <= duration('{most}')"
    );
    Rule::new(rule).message(Message::Message(format!(
        "must be a duration from {least} to {most}: numbers with the units h, m, s or ms, as in \"1h30m\" or \"2.5s\""
    )))
}
