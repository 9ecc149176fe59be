use std::{
    io::{self, Write},
    process::ExitCode,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::Failure;
use crate::{
    api::{GROUP, SecretType, VERSION},
    compile::{ObjectKind, Schema},
    routing::ObjectName,
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
    #[arg(long, value_name = "URL", env = "CULVERT_EDGE", default_value = "https://EDGE:7443")]
    edge: String,
    /// The bridge's public key, sha256:…, for the command line that is printed; without it, the agent trusts the
    /// system's roots.
    #[arg(long, value_name = "FINGERPRINT", env = "CULVERT_EDGE_FINGERPRINT")]
    edge_fingerprint: Option<String>,
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

    let pin = args.edge_fingerprint.as_ref().map(|pin| format!(" --edge-fingerprint {pin}")).unwrap_or_default();
    let Args { edge, agent: identity, .. } = args;
    let command =
        format!("culvert agent --edge {edge}{pin} --agent {identity} --token-file {name}.token --allow 127.0.0.1:8080");
    Ok(format!(
        "# Save the token next to your service, alone in the file {name}.token, and start the agent there:\n\
         #   {command}\n{}---\n{}",
        serde_saphyr::to_string(&secret)?,
        serde_saphyr::to_string(&agent)?,
    ))
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

    fn args(agent: &str) -> Args {
        Args {
            agent: agent.parse().expect("a name"),
            edge: "https://edge.example.com:7443".to_owned(),
            edge_fingerprint: Some("sha256:abc".to_owned()),
        }
    }

    #[test]
    fn the_manifest_makes_an_agent_that_its_token_opens() {
        let text = manifest(&args("web/home"), "0123456789abcdef").expect("a manifest");
        assert!(text.contains(
            "#   culvert agent --edge https://edge.example.com:7443 --edge-fingerprint sha256:abc --agent web/home \
             --token-file home.token --allow 127.0.0.1:8080\n"
        ));
        let mut objects = Objects::default();
        for entry in Manifest::parse(&text).expect("YAML").entries {
            match entry.object.expect("valid") {
                Object::TunnelAgent(agent) => objects.tunnel_agents.push(Arc::new(*agent)),
                Object::Secret(secret) => objects.secrets.push(Arc::new(*secret)),
                Object::TunnelHost(_) => unreachable!("none is printed"),
            }
        }
        let compiled = compile(&objects, None);
        let agent = compiled.agents.get(&ObjectName::new("web", "home")).expect("the agent");
        assert!(agent.credentials[0].token.verify(b"0123456789abcdef"));
    }

    #[test]
    fn a_name_that_no_api_server_takes_is_refused() {
        let error = manifest(&args("web/Home"), "0123456789abcdef").expect_err("an upper-case name");
        assert!(error.to_string().starts_with("metadata.name: \"Home\" must be"), "{error}");
    }
}
