//! Policies that only waypoints enforce, as the user wrote them: AuthorizationPolicy with targetRefs, RequestAuthentication
//! and RateLimit (spec/waypoint.md 4, 5.10). What values mean is decided where requests are judged.

use std::sync::Arc;

use mesh_xds::messages::waypoint::{
    AUTHZ_POLICY, AuthzAction, AuthzCondition, AuthzOperation, AuthzPolicy, AuthzRule, AuthzSource, ClaimHeader, JWT_POLICY, JwtHeader, JwtPolicy, JwtRule as JwtMessage, Host,
    RATE_LIMIT, RateLimit as RateLimitMessage,
};

use super::resource::{Resource, source};
use super::targets::{is_true, resolve, resolve_with_routes, texts};
use super::{Derived, Lens, Report, rate_limit};
use crate::cluster::attach::full_host;
use crate::objects::policy::{Operation, Rule, Source};
use crate::objects::rate_limit::Global;
use crate::objects::request::JwtRule;
use crate::objects::{AuthorizationPolicy, Kind, ObjectKey, RateLimit, RequestAuthentication};

const ACCEPTED: &str = "WaypointAccepted";

/// What waypoints are told of a policy with targets. `None`: nobody is to be told.
pub fn authorization(lens: &Lens<'_>, policy: &AuthorizationPolicy, report: &mut Report) -> Option<Arc<Resource>> {
    let meta = &policy.meta;
    let targets = resolve(lens, meta, policy.targets());
    let action = match policy.spec.action.as_deref() {
        Some("DENY") => AuthzAction::Deny,
        Some("AUDIT") => AuthzAction::Audit,
        Some("CUSTOM") => AuthzAction::Custom,
        None | Some("ALLOW") => AuthzAction::Allow,
        Some(other) => {
            report.fails(ACCEPTED, "Invalid", format!("spec.action {other:?} is not ALLOW, DENY, AUDIT or CUSTOM: until it is corrected everybody is refused by it"));
            // What the policy was to permit is not known.
            let message = AuthzPolicy { meta: source(Kind::AuthorizationPolicy, meta, ""), targets: targets.targets, ..AuthzPolicy::default() };
            return (!targets.audience.is_empty()).then(|| Resource::new(AUTHZ_POLICY, &meta.ns_name().to_string(), &message, &targets.audience));
        }
    };
    let provider = policy.spec.provider.as_ref().map(|provider| provider.name.to_string()).unwrap_or_default();
    targets.tell(ACCEPTED, report);
    if action == AuthzAction::Custom && !lens.mesh_config().extension_providers.iter().any(|known| *known.name == *provider && known.is_ext_authz()) {
        report.note(format!("spec.provider.name {provider:?} is no ext_authz provider among extensionProviders of the mesh's configuration: requests that match are refused"));
    }
    if policy.spec.selector.is_some() {
        report.note("spec.selector has no effect beside spec.targetRefs");
    }
    if targets.audience.is_empty() {
        return None;
    }
    let message = AuthzPolicy {
        meta: source(Kind::AuthorizationPolicy, meta, ""),
        targets: targets.targets,
        action: action as i32,
        dry_run: meta.annotation("istio.io/dry-run").is_some_and(is_true),
        rules: policy.spec.rules.iter().map(|rule| authz_rule(rule, &meta.namespace)).collect(),
        provider,
    };
    Some(Resource::new(AUTHZ_POLICY, &meta.ns_name().to_string(), &message, &targets.audience))
}

fn authz_rule(rule: &Rule, namespace: &str) -> AuthzRule {
    AuthzRule {
        from: rule.from.iter().map(|from| authz_source(&from.source, namespace)).collect(),
        to: rule.to.iter().map(|to| operation(&to.operation)).collect(),
        when: rule.when.iter().map(|when| AuthzCondition { key: when.key.to_string(), values: texts(&when.values), not_values: texts(&when.not_values) }).collect(),
    }
}

fn authz_source(from: &Source, namespace: &str) -> AuthzSource {
    // An account without a namespace is of the policy's own, which the waypoint may not be in.
    let accounts = |list: &[Arc<str>]| list.iter().map(|account| if account.contains('/') { account.to_string() } else { format!("{namespace}/{account}") }).collect();
    AuthzSource {
        principals: texts(&from.principals),
        not_principals: texts(&from.not_principals),
        request_principals: texts(&from.request_principals),
        not_request_principals: texts(&from.not_request_principals),
        namespaces: texts(&from.namespaces),
        not_namespaces: texts(&from.not_namespaces),
        service_accounts: accounts(&from.service_accounts),
        not_service_accounts: accounts(&from.not_service_accounts),
        ip_blocks: texts(&from.ip_blocks),
        not_ip_blocks: texts(&from.not_ip_blocks),
        remote_ip_blocks: texts(&from.remote_ip_blocks),
        not_remote_ip_blocks: texts(&from.not_remote_ip_blocks),
        trust_domains: texts(&from.trust_domains),
        not_trust_domains: texts(&from.not_trust_domains),
    }
}

fn operation(to: &Operation) -> AuthzOperation {
    AuthzOperation {
        hosts: texts(&to.hosts),
        not_hosts: texts(&to.not_hosts),
        ports: texts(&to.ports),
        not_ports: texts(&to.not_ports),
        methods: texts(&to.methods),
        not_methods: texts(&to.not_methods),
        paths: texts(&to.paths),
        not_paths: texts(&to.not_paths),
    }
}

pub fn request_authentication(lens: &Lens<'_>, policy: &RequestAuthentication) -> Derived {
    let meta = &policy.meta;
    let mut derived = Derived::default();
    let mut report = Report::default();
    if policy.targets().next().is_none() {
        report.note("has no effect: only waypoints look at tokens, and a policy is for them by spec.targetRefs alone");
    } else {
        let targets = resolve(lens, meta, policy.targets());
        targets.tell(ACCEPTED, &mut report);
        if policy.spec.selector.is_some() {
            report.note("spec.selector has no effect beside spec.targetRefs");
        }
        if !targets.audience.is_empty() {
            let rules = policy.spec.jwt_rules.iter().map(jwt_rule).collect();
            let message = JwtPolicy { meta: source(Kind::RequestAuthentication, meta, ""), targets: targets.targets, rules };
            derived.resources.push(Resource::new(JWT_POLICY, &meta.ns_name().to_string(), &message, &targets.audience));
        }
    }
    derived.reports.push((ObjectKey { kind: Kind::RequestAuthentication, name: meta.ns_name() }, report));
    derived
}

/// A limit that cannot be done as it is written: nobody knows how much may pass, so what it is for is refused, and told so.
pub fn rate_limit(lens: &Lens<'_>, object: &RateLimit) -> Derived {
    let meta = &object.meta;
    let mut derived = Derived::default();
    let mut report = Report::default();
    let host = |global: &Global| {
        let namespace = global.service.namespace.clone().filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| meta.namespace.clone());
        Host { namespace: namespace.to_string(), hostname: full_host(&global.service.name, &namespace, &lens.settings.cluster_domain).to_string() }
    };
    let targets = resolve_with_routes(lens, meta, object.spec.target_refs.iter());
    let message = rate_limit::message(&object.spec, host).unwrap_or_else(|why| {
        let effect = if object.spec.shadow { "nothing is counted by it" } else { "until it is corrected, requests for its targets are answered with 500" };
        report.fails(ACCEPTED, "Invalid", format!("{why}; {effect}"));
        RateLimitMessage { shadow: object.spec.shadow, invalid: why, ..RateLimitMessage::default() }
    });
    if object.spec.target_refs.is_empty() {
        report.fails(ACCEPTED, "Invalid", "spec.targetRefs: is empty: name what is limited");
    } else if message.invalid.is_empty() {
        targets.tell(ACCEPTED, &mut report);
    }
    if !targets.audience.is_empty() {
        let message = RateLimitMessage { meta: source(Kind::RateLimit, meta, ""), targets: targets.targets, ..message };
        derived.resources.push(Resource::new(RATE_LIMIT, &meta.ns_name().to_string(), &message, &targets.audience));
    }
    derived.reports.push((ObjectKey { kind: Kind::RateLimit, name: meta.ns_name() }, report));
    derived
}

fn jwt_rule(rule: &JwtRule) -> JwtMessage {
    JwtMessage {
        issuer: rule.issuer.to_string(),
        audiences: texts(&rule.audiences),
        jwks_uri: rule.jwks_uri.to_string(),
        jwks: rule.jwks.to_string(),
        from_headers: rule.from_headers.iter().map(|from| JwtHeader { name: from.name.to_string(), prefix: from.prefix.to_string() }).collect(),
        from_params: texts(&rule.from_params),
        from_cookies: texts(&rule.from_cookies),
        output_payload_to_header: rule.output_payload_to_header.to_string(),
        forward_original_token: rule.forward_original_token,
        output_claims: rule.output_claim_to_headers.iter().map(|to| ClaimHeader { header: to.header.to_string(), claim: to.claim.to_string() }).collect(),
        timeout_ms: rule.timeout.map_or(0, |span| span.ms()),
        space_delimited_claims: texts(&rule.space_delimited_claims),
    }
}
