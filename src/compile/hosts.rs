//! One TunnelHost on its way into the table. What is wrong with it is collected; the rest goes on.

mod backend;
mod health;
mod matches;
mod policies;
pub(super) mod values;

use std::{collections::HashMap, sync::Arc};

use http::HeaderValue;

use self::policies::{Level, Policies};
use super::{
    certificates::CertificateBook,
    claims::Claims,
    object_name,
    patterns::Patterns,
    permissions::Permissions,
    secrets::Secrets,
    verdict::{ObjectKind, Problems, Verdict},
};
use crate::{
    api::{self, ConditionType, Reason, TunnelHost},
    routing::{Backend, Filter, Hostname, ObjectName, Rule, RuleId},
};

/// What a TunnelHost is compiled against.
pub(super) struct Context<'a> {
    pub(super) secrets: &'a Secrets<'a>,
    pub(super) permissions: Permissions<'a>,
    pub(super) previous: Option<&'a HashMap<RuleId, Arc<Rule>>>,
}

/// What the TunnelHosts come to, the oldest first.
pub(super) struct Results<'a> {
    pub(super) claims: Claims,
    pub(super) rules: HashMap<RuleId, Arc<Rule>>,
    pub(super) certificates: CertificateBook<'a>,
    pub(super) patterns: Patterns<'a>,
}

/// One TunnelHost on its way: its name, and what is wrong with it so far.
struct Host<'a> {
    name: ObjectName,
    context: &'a Context<'a>,
    accepted: Problems,
    refs: Problems,
    agents: Vec<ObjectName>,
}

/// Compiles one TunnelHost: claims its hostnames, and puts its rules under those that it got.
pub(super) fn compile(object: &TunnelHost, context: &Context<'_>, results: &mut Results<'_>) -> Verdict {
    let name = object_name(&object.metadata);
    let mut host = Host { name, context, accepted: Problems::default(), refs: Problems::default(), agents: Vec::new() };

    let hostnames = host.hostnames(&object.spec.hostnames, &mut results.claims);
    let (transport, certificate) = host.tls(object.spec.tls.as_ref(), &hostnames, &mut results.certificates);
    let policies = host.policies(&Level::of_host(&object.spec));
    let mut programmed = 0;
    for (index, route) in object.spec.routes.iter().enumerate() {
        let Some(rule) = host.rule(index, route, (&transport, &policies), &mut results.patterns) else { continue };
        let rule = match context.previous.and_then(|previous| previous.get(&rule.id)) {
            Some(same) if **same == rule => same.clone(),
            _ => Arc::new(rule),
        };
        if host.place(&rule, &hostnames, &mut results.claims) {
            programmed += 1;
            results.rules.insert(rule.id.clone(), rule);
        }
    }

    let fine = format!("{} and {}", count(hostnames.len(), "hostname"), count(object.spec.routes.len(), "route"));
    let resolved = format!("{} found{}", count(host.agents.len(), "agent"), certificate.unwrap_or_default());
    Verdict {
        kind: ObjectKind::TunnelHost,
        name: host.name,
        generation: object.metadata.generation,
        conditions: vec![
            host.accepted.judge(ConditionType::Accepted, Reason::Accepted, fine),
            host.refs.judge(ConditionType::ResolvedRefs, Reason::ResolvedRefs, resolved),
        ],
        routes: programmed,
        agents: host.agents,
    }
}

// === impl Host ===

impl Host<'_> {
    /// The hostnames that the object gets.
    fn hostnames(&mut self, texts: &[String], claims: &mut Claims) -> Vec<Hostname> {
        let mut granted = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let field = format!("spec.hostnames[{index}]");
            let hostname: Hostname = match text.parse() {
                Ok(hostname) => hostname,
                Err(error) => {
                    self.accepted.add(
                        Reason::UnsupportedValue,
                        format!("{field}: {text:?} is no hostname: {error}; write a DNS name"),
                    );
                    continue;
                }
            };
            match claims.claim(&hostname, &self.name) {
                Ok(()) => granted.push(hostname),
                Err(owned) => {
                    let how = if owned.hostname == hostname {
                        String::new()
                    } else {
                        format!(" by {:?}", owned.hostname.to_string())
                    };
                    self.accepted.add(
                        Reason::HostnameConflict,
                        format!(
                            "{field}: {text:?} belongs to namespace {:?}{how}, whose TunnelHost {} is older; choose \
                             another hostname, or have that one removed",
                            &*owned.by.namespace, owned.by
                        ),
                    );
                }
            }
        }
        granted
    }

    /// The filters that TLS means for every route, and what is to be said of the certificate where it is right.
    fn tls(
        &mut self,
        tls: Option<&api::Tls>,
        hostnames: &[Hostname],
        certificates: &mut CertificateBook<'_>,
    ) -> (Vec<Filter>, Option<String>) {
        let Some(tls) = tls else { return (Vec::new(), None) };
        let mut filters = Vec::new();
        if tls.redirect {
            filters.push(Filter::RequireTls);
        }
        filters.extend(tls.hsts.as_ref().and_then(|hsts| self.hsts(hsts)));
        let Some(secret) = &tls.secret_ref else { return (filters, None) };

        let secret = ObjectName { namespace: self.name.namespace.clone(), name: secret.name.as_str().into() };
        let found = certificates.find(&secret);
        if let Some(problem) = &found.problem {
            let shown = match &found.certificate {
                Some(last) => format!("the last good certificate, valid until {}, is still shown", last.until),
                None => "until then the edge's default certificate is shown".to_owned(),
            };
            let message = format!("spec.tls.secretRef.name: {}; {shown}", problem.message);
            self.refs.add(problem.reason, message);
        }
        let Some(found) = &found.certificate else { return (filters, None) };
        for hostname in hostnames {
            if !found.covers(hostname) {
                self.refs.note(format!(
                    "spec.tls.secretRef.name: the certificate of Secret {:?} is not for {:?}, so browsers refuse it; have the \
                     name added to it, or take the hostname into another TunnelHost",
                    &*secret.name,
                    hostname.to_string()
                ));
            }
        }
        let fine = format!(", and a certificate that is valid until {}", found.until);
        certificates.show(&secret, hostnames);
        (filters, Some(fine))
    }

    /// `Strict-Transport-Security` (RFC 6797).
    fn hsts(&mut self, hsts: &api::Hsts) -> Option<Filter> {
        let max_age = values::duration(&hsts.max_age, values::HSTS_MAX_AGE);
        let max_age = self.accept("spec.tls.hsts.maxAge", max_age)?;
        let subdomains = if hsts.include_subdomains { "; includeSubDomains" } else { "" };
        let preload = if hsts.preload { "; preload" } else { "" };
        let value = format!("max-age={}{subdomains}{preload}", max_age.as_secs());
        HeaderValue::try_from(value).ok().map(Filter::Hsts)
    }

    /// The rule of a route; `None` where what it is for cannot be told at all.
    fn rule(
        &mut self,
        index: usize,
        route: &api::Route,
        (transport, host): (&[Filter], &Policies),
        patterns: &mut Patterns<'_>,
    ) -> Option<Rule> {
        let field = format!("spec.routes[{index}]");
        let id = RuleId { object: self.name.clone(), route: index };
        let matches = self.matches(&field, route, patterns)?;
        // The route's own problems are told even where it is closed anyway.
        let own = self.policies(&Level::of_route(index, route));
        let policies = own.over(host);
        let mut filters = transport.to_vec();
        let closed = policies.filters(&mut filters);
        let mut backend = self.backend(&field, route, policies.attempts());
        match route.rewrite.as_ref().map(|rewrite| self.rewrite(&field, route, rewrite)) {
            None => {}
            Some(Ok(filter)) => filters.push(filter),
            Some(Err(why)) => backend = Backend::Invalid(why.into()),
        }
        if let Some(why) = closed {
            filters = transport.to_vec();
            backend = Backend::Invalid(why);
        }
        Some(Rule { id, matches, filters, timeouts: policies.timeouts(), backend })
    }

    /// What could be read of a field; what could not is told with the field's name.
    fn accept<T>(&mut self, field: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|problem| self.accepted.add(Reason::UnsupportedValue, format!("{field}: {problem}"))).ok()
    }

    /// Puts the rule under the hostnames where its path is free, and says under how many that was.
    fn place(&mut self, rule: &Arc<Rule>, hostnames: &[Hostname], claims: &mut Claims) -> bool {
        let mut placed = false;
        for hostname in hostnames {
            let Err(older) = claims.add(hostname, rule) else {
                placed = true;
                continue;
            };
            let taken = if older.object == self.name {
                format!("spec.routes[{}] of this object, which comes first", older.route)
            } else {
                format!("spec.routes[{}] of TunnelHost {}, which is older", older.route, older.object)
            };
            self.accepted.add(
                Reason::RouteConflict,
                format!(
                    "spec.routes[{}]: {} of {:?} is taken by {taken}; choose another path or match",
                    rule.id.route,
                    matches::describe(&rule.matches),
                    hostname.to_string()
                ),
            );
        }
        placed
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
