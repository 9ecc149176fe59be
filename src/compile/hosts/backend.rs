use std::sync::Arc;

use http::{StatusCode, uri};
use rustls_pki_types::ServerName;

use super::{super::permissions::Permission, Host, values};
use crate::{
    api::{self, PathType, Reason, RedirectPathType, Scheme},
    routing::{
        Backend, BackendTls, Filter, Hostname, LoadBalancing, Member, ObjectName, PassiveHealth, Places, Protocol,
        ProxyProtocol, Redirect, RedirectPath, Target, Trust, TunnelBackend, is_authority,
    },
};

// === impl Host ===

impl Host<'_> {
    /// Where a route leads, of what is right with it; invalid where nothing is left.
    pub(super) fn backend(&mut self, field: &str, route: &api::Route, attempts: u32) -> Backend {
        let backend = match (&route.backend, &route.redirect) {
            (Some(backend), None) => self.tunnel(&format!("{field}.backend"), backend, attempts).map(Backend::Tunnel),
            (None, Some(redirect)) => self.redirect(field, route, redirect).map(Backend::Redirect),
            _ => Err(self.unsupported(format!("{field}: it must have either 'backend' or 'redirect'"))),
        };
        backend.unwrap_or_else(|why| Backend::Invalid(why.into()))
    }

    fn tunnel(&mut self, field: &str, backend: &api::Backend, attempts: u32) -> Result<TunnelBackend, String> {
        let (agents, targets) = (self.agents(field, &backend.agents)?, self.targets(field, &backend.targets)?);
        let protocol = self.protocol(field, backend)?;
        let host_header = match backend.host_header.as_str() {
            "" => None,
            text if is_authority(text.as_bytes()) => Some(text.into()),
            text => {
                let problem = format!("{text:?} is not HOST or HOST:PORT; correct or remove it");
                return Err(self.unsupported(format!("{field}.hostHeader: {problem}")));
            }
        };
        let check = backend.health_check.as_ref();
        let check = check.and_then(|check| {
            self.health_check(&format!("{field}.healthCheck"), check, &protocol, host_header.as_ref())
        });
        Ok(TunnelBackend {
            places: Places::new(&agents, &targets),
            balancing: match backend.load_balancing {
                api::LoadBalancing::RoundRobin => LoadBalancing::RoundRobin,
                api::LoadBalancing::Random => LoadBalancing::Random,
                api::LoadBalancing::LeastRequests => LoadBalancing::LeastRequests,
                api::LoadBalancing::ClientHash => LoadBalancing::ClientHash,
            },
            health_check: check,
            passive_health: match &backend.passive_health {
                None => PassiveHealth::default(),
                Some(passive) => self.passive_health(&format!("{field}.passiveHealth"), passive),
            },
            protocol,
            host_header,
            proxy_protocol: backend.proxy_protocol.map(|version| match version {
                api::ProxyProtocol::V1 => ProxyProtocol::V1,
                api::ProxyProtocol::V2 => ProxyProtocol::V2,
            }),
            attempts,
        })
    }

    /// Those of the agents that exist and may be used.
    fn agents(&mut self, field: &str, agents: &[api::AgentRef]) -> Result<Vec<Member<ObjectName>>, String> {
        let mut broken = None;
        let mut known = Vec::with_capacity(agents.len());
        for (index, agent) in agents.iter().enumerate() {
            let field = format!("{field}.agents[{index}]");
            match self.agent(&field, agent) {
                Ok(name) => known.push(self.member(&field, name, agent.weight, agent.priority)),
                Err(message) => drop(broken.get_or_insert(message)),
            }
        }
        if known.is_empty() { Err(broken.unwrap_or_else(|| format!("{field}.agents is empty"))) } else { Ok(known) }
    }

    /// The agent of a reference; what is wrong with it is told.
    ///
    /// Of another namespace, one that does not exist and one that may not be used give one reason and one message: who may
    /// write TunnelHosts in one namespace learns nothing of what there is in another.
    fn agent(&mut self, field: &str, agent: &api::AgentRef) -> Result<ObjectName, String> {
        let own = self.name.namespace.clone();
        let namespace = if agent.namespace.is_empty() { own.clone() } else { agent.namespace.as_str().into() };
        let name = ObjectName { namespace, name: agent.name.as_str().into() };
        let permission = self.context.permissions.of(&name, &own);
        if permission == Permission::Granted {
            if !self.agents.contains(&name) {
                self.agents.push(name.clone());
            }
            return Ok(name);
        }
        if name.namespace == own {
            let message = format!(
                "{field}.name: no TunnelAgent {:?} in namespace {:?}; create it, or correct the name",
                agent.name, &*own
            );
            self.refs.add(Reason::AgentNotFound, message.clone());
            return Err(message);
        }
        let message = format!(
            "{field}: there is no TunnelAgent {:?} in namespace {:?} that admits namespace {:?}; have that added to its \
             spec.allowedNamespaces, or correct the reference",
            agent.name, &*name.namespace, &*own
        );
        match permission {
            Permission::Denied => self.refs.add(Reason::RefNotPermitted, message.clone()),
            _ => self.refs.add_missing(Reason::RefNotPermitted, message.clone()),
        }
        Err(message)
    }

    /// Those of the targets that can be read.
    fn targets(&mut self, field: &str, targets: &[api::TargetAddress]) -> Result<Vec<Member<Target>>, String> {
        let mut broken = None;
        let mut known = Vec::with_capacity(targets.len());
        for (index, target) in targets.iter().enumerate() {
            match target.address.parse::<Target>() {
                Ok(item) => {
                    let field = format!("{field}.targets[{index}]");
                    known.push(self.member(&field, item, target.weight, target.priority));
                }
                Err(error) => {
                    let message = format!("{field}.targets[{index}].address: {:?}: {error}", target.address);
                    broken = Some(self.unsupported(message));
                }
            }
        }
        if known.is_empty() { Err(broken.unwrap_or_else(|| format!("{field}.targets is empty"))) } else { Ok(known) }
    }

    /// An agent or target with its share; what cannot be read of it is told, and as if unset.
    fn member<T>(&mut self, field: &str, item: T, weight: i32, priority: i32) -> Member<T> {
        let mut read = |what: &str, value: i32, most: u32, unset: u32| {
            let fine = u32::try_from(value).ok().filter(|value| *value <= most);
            fine.unwrap_or_else(|| {
                self.unsupported(format!("{field}.{what}: {value} is not from 0 to {most}; {unset} is used"));
                unset
            })
        };
        let (weight, priority) = (read("weight", weight, 1000, 1), read("priority", priority, 100, 0));
        Member { item, weight, priority }
    }

    fn protocol(&mut self, field: &str, backend: &api::Backend) -> Result<Protocol, String> {
        match (backend.protocol, &backend.tls) {
            (api::Protocol::Https, tls)
                if tls.as_ref().is_none_or(|tls| tls.server_name.is_none())
                    && backend.targets.iter().any(|target| target.address.starts_with("unix:/")) =>
            {
                let problem = "a target 'unix:/PATH' has no name that a certificate can have; set it";
                Err(self.unsupported(format!("{field}.tls.serverName: {problem}")))
            }
            (api::Protocol::Https, tls) => self.backend_tls(&format!("{field}.tls"), tls.as_ref()),
            // Whoever asks for TLS must not be served without it.
            (_, Some(_)) => {
                Err(self.unsupported(format!("{field}.tls: it needs 'protocol: HTTPS'; set that, or remove it")))
            }
            (api::Protocol::Http, None) => Ok(Protocol::Http),
            (api::Protocol::H2C | api::Protocol::Grpc, None) => Ok(Protocol::H2c),
        }
    }

    fn backend_tls(&mut self, field: &str, tls: Option<&api::BackendTls>) -> Result<Protocol, String> {
        let unset = api::BackendTls::default();
        let tls = tls.unwrap_or(&unset);
        let server_name = match &tls.server_name {
            Some(name) if ServerName::try_from(name.as_str()).is_err() => {
                let message =
                    format!("{field}.serverName: {name:?} is neither a DNS name nor an IP address; correct it");
                return Err(self.unsupported(message));
            }
            name => name.as_deref().map(Arc::from),
        };
        let trust = match (&tls.ca_secret_ref, tls.insecure_skip_verify) {
            (None, false) => Trust::WebRoots,
            (None, true) => Trust::Insecure,
            (Some(_), true) => {
                let message =
                    format!("{field}: 'insecureSkipVerify' would make 'caSecretRef' useless; remove one of them");
                return Err(self.unsupported(message));
            }
            (Some(secret), false) => {
                let authorities = self.context.secrets.authorities(&self.name.namespace, &secret.name);
                Trust::Authorities(authorities.map_err(|problem| {
                    let message = format!("{field}.caSecretRef.name: {}", problem.message);
                    self.refs.add(problem.reason, format!("{message}; until then the route answers 500"));
                    message
                })?)
            }
        };
        Ok(Protocol::Https(Arc::new(BackendTls { server_name, trust })))
    }

    fn redirect(&mut self, field: &str, route: &api::Route, redirect: &api::Redirect) -> Result<Redirect, String> {
        let own = format!("{field}.redirect");
        let status = u16::try_from(redirect.status_code).ok().filter(|code| [301, 302, 303, 307, 308].contains(code));
        let Some(status) = status.and_then(|code| StatusCode::from_u16(code).ok()) else {
            return Err(self.unsupported(format!("{own}.statusCode: it must be 301, 302, 303, 307 or 308")));
        };
        let hostname = match &redirect.hostname {
            None => None,
            Some(text) => match text.parse::<Hostname>() {
                Ok(Hostname::Exact(name)) => Some(name),
                _ => return Err(self.unsupported(format!("{own}.hostname: {text:?} is no DNS name; correct it"))),
            },
        };
        let port = match redirect.port.map(u16::try_from) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(self.unsupported(format!("{own}.port: it must be from 1 to 65535"))),
        };
        let path = match &redirect.path {
            None => None,
            Some(path) => {
                let value = values::url_path(&path.value).map_err(|problem| {
                    self.unsupported(format!("{own}.path.value: {:?} is no path: {problem}", path.value))
                })?;
                Some(match path.r#type {
                    RedirectPathType::Full => RedirectPath::Full(value.into()),
                    RedirectPathType::ReplacePrefix if route.path.r#type == PathType::Prefix => {
                        RedirectPath::ReplacePrefix(value.into())
                    }
                    RedirectPathType::ReplacePrefix => {
                        let message =
                            format!("{own}.path.type: ReplacePrefix needs a path of type Prefix, which it replaces");
                        return Err(self.unsupported(message));
                    }
                })
            }
        };
        if redirect.scheme.is_none() && hostname.is_none() && port.is_none() && path.is_none() {
            let message = format!("{own}: it needs 'scheme', 'hostname', 'port' or 'path', or it would lead to itself");
            return Err(self.unsupported(message));
        }
        let scheme = redirect.scheme.map(|scheme| match scheme {
            Scheme::Http => uri::Scheme::HTTP,
            Scheme::Https => uri::Scheme::HTTPS,
        });
        Ok(Redirect { status, scheme, hostname, port, path })
    }

    /// The new beginning of the path. One that cannot be read closes the route: the backend must not get paths that it was
    /// not meant to get.
    pub(super) fn rewrite(
        &mut self,
        field: &str,
        route: &api::Route,
        rewrite: &api::Rewrite,
    ) -> Result<Filter, String> {
        if route.path.r#type != PathType::Prefix {
            let message = format!("{field}.rewrite: it needs a path of type Prefix, which it replaces");
            return Err(self.unsupported(message));
        }
        match values::url_path(&rewrite.prefix) {
            Ok(prefix) => Ok(Filter::ReplacePrefix(prefix.into())),
            Err(problem) => {
                Err(self.unsupported(format!("{field}.rewrite.prefix: {:?} is no path: {problem}", rewrite.prefix)))
            }
        }
    }

    /// Tells that a value is not possible, and gives the message back.
    pub(super) fn unsupported(&mut self, message: String) -> String {
        self.accepted.add(Reason::UnsupportedValue, message.clone());
        message
    }
}
