use std::{
    io::{self, Write},
    process::ExitCode,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::uri::Authority;
use serde_json::{Value, json};

use super::Failure;
use crate::{
    api::{GROUP, SecretType, VERSION},
    compile::{ObjectKind, Schema},
    routing::ObjectName,
    tunnel::tls::Fingerprint,
};

/// Makes a token: prints a Secret and a TunnelAgent, and the agent's command line.
///
/// The output is YAML for `kubectl apply -f -` or for the folder of `culvert serve --manifests`; the command line stands in
/// it as a comment. The token is made of 32 random bytes and is shown nowhere else.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The TunnelAgent to make.
    #[arg(value_name = "NAMESPACE/NAME")]
    agent: ObjectName,
    /// Where agents reach the edge's bridge, for the command line that is printed.
    #[arg(long, value_name = "URL", env = "CULVERT_EDGE", default_value = "https://EDGE:7443", value_parser = edge)]
    edge: String,
    /// The fingerprint of the bridge's public key, for the command line that is printed; without it, that has a
    /// placeholder. The edge logs it when it starts.
    #[arg(long, value_name = "sha256:…", env = "CULVERT_EDGE_FINGERPRINT")]
    edge_fingerprint: Option<Fingerprint>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    io::stdout().write_all(manifest(args, &generate())?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// A token of 32 random bytes.
pub(super) fn generate() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

fn manifest(args: &Args, token: &str) -> Result<String, Failure> {
    let ObjectName { namespace, name } = &args.agent;
    let secret_name = format!("{name}-token");
    let metadata = |name: &str| json!({"namespace": &**namespace, "name": name});
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(&secret_name),
        "type": SecretType::AgentToken.as_str(),
        "stringData": {SecretType::TOKEN: token},
    });
    let agent = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "TunnelAgent",
        "metadata": metadata(name),
        "spec": {"credentials": [{"secretRef": {"name": secret_name}}]},
    });
    check(&agent)?;

    // The certificate that an edge makes for itself is trusted by its key alone.
    let (pin, hint) = match args.edge_fingerprint {
        Some(pin) => (pin.to_string(), ""),
        None => (
            "sha256:…".to_owned(),
            "# The edge logs its --edge-fingerprint when it starts. Where its certificate is one that the agent's system\n\
             # trusts, leave the flag out.\n",
        ),
    };
    let Args { edge, agent: identity, .. } = args;
    let command = format!(
        "culvert agent --edge {edge} --edge-fingerprint {pin} --agent {identity} --token-file {name}.token --allow \
         127.0.0.1:8080"
    );
    Ok(format!(
        "# Save the token next to your service, alone in the file {name}.token, and start the agent there:\n\
         #   {command}\n{hint}{}---\n{}",
        serde_saphyr::to_string(&secret)?,
        serde_saphyr::to_string(&agent)?,
    ))
}

/// An edge as `culvert agent` takes it. What is printed is to be pasted into a shell, so nothing else may stand in it.
fn edge(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']');
    let url = text.strip_suffix('/').unwrap_or(text);
    let authority = url.strip_prefix("https://").filter(|rest| rest.chars().all(plain));
    let authority = authority.and_then(|rest| rest.parse::<Authority>().ok());
    // `http` does not look into a port.
    let is_edge =
        |edge: &Authority| !edge.host().is_empty() && (edge.port_u16().is_some() || edge.host() == edge.as_str());
    match authority.filter(is_edge) {
        Some(_) => Ok(url.to_owned()),
        None => Err("it is not of the form https://HOST:PORT".to_owned()),
    }
}

/// Names that no API server takes are refused here already.
fn check(agent: &Value) -> Result<(), Failure> {
    match Schema::of(ObjectKind::TunnelAgent).check(agent).first() {
        Some(finding) => Err(finding.to_string().into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        compile::{Objects, compile},
        controller::{Manifest, Object},
    };

    const PIN: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn args(agent: &str) -> Args {
        Args {
            agent: agent.parse().expect("a name"),
            edge: "https://edge.example.com:7443".to_owned(),
            edge_fingerprint: Some(PIN.parse().expect("a fingerprint")),
        }
    }

    #[test]
    fn the_manifest_makes_an_agent_that_its_token_opens() {
        let text = manifest(&args("web/home"), "0123456789abcdef").expect("a manifest");
        assert!(text.contains(&format!(
            "#   culvert agent --edge https://edge.example.com:7443 --edge-fingerprint {PIN} --agent web/home \
             --token-file home.token --allow 127.0.0.1:8080\napiVersion"
        )));
        let mut objects = Objects::default();
        for entry in Manifest::parse(&text).expect("YAML").entries {
            match entry.object.expect("valid") {
                Object::TunnelAgent(agent) => objects.tunnel_agents.push(Arc::new(*agent)),
                Object::Secret(secret) => objects.secrets.push(Arc::new(*secret)),
                Object::TunnelHost(_) | Object::Namespace(_) => unreachable!("none is printed"),
            }
        }
        let compiled = compile(&objects, None);
        let agent = compiled.agents.get(&ObjectName::new("web", "home")).expect("the agent");
        assert!(agent.credentials[0].token.verify(b"0123456789abcdef"));
    }

    #[test]
    fn without_a_fingerprint_a_placeholder_says_where_it_is() {
        let args = Args { edge_fingerprint: None, ..args("web/home") };
        let text = manifest(&args, "0123456789abcdef").expect("a manifest");
        assert!(text.contains(" --edge-fingerprint sha256:… --agent web/home"), "{text}");
        assert!(text.contains("# The edge logs its --edge-fingerprint when it starts."), "{text}");
        assert_eq!(Manifest::parse(&text).expect("YAML").entries.len(), 2);
    }

    #[test]
    fn only_an_edge_and_a_fingerprint_get_into_the_command_line() {
        for good in ["https://EDGE:7443", "https://edge.example.com", "https://[::1]:7443", "https://192.0.2.1:1/"] {
            assert_eq!(edge(good).as_deref(), Ok(good.trim_end_matches('/')));
        }
        for bad in [
            "foo bar",
            "edge:7443",
            "http://edge:80",
            "https://",
            "https://a b",
            "https://a\n#b",
            "https://a;reboot",
            "https://$(x)",
            "https://a/b",
            "https://a:b",
            "https://a:99999",
            "https://u@a",
            "https://:7443",
            "https://a?b",
        ] {
            edge(bad).expect_err(bad);
        }
        let parse = |pin: &str| {
            let command = <Args as clap::Args>::augment_args(clap::Command::new("token"));
            command.try_get_matches_from(["token", "web/home", "--edge-fingerprint", pin])
        };
        parse(PIN).expect("a fingerprint");
        assert!(parse("nonsense").expect_err("none").to_string().contains("is no fingerprint"));
    }

    #[test]
    fn a_name_that_no_api_server_takes_is_refused() {
        let error = manifest(&args("web/Home"), "0123456789abcdef").expect_err("an upper-case name");
        assert!(error.to_string().starts_with("metadata.name: \"Home\" must be"), "{error}");
    }
}
