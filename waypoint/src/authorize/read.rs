//! From the message to the policy: every text is given its meaning by `mesh-policy`, and what has none keeps its place.

use std::sync::Arc;

use mesh_policy::Entry;
use mesh_policy::request::{Action, Attribute, Condition, Pattern, Policy, Rule};
use mesh_xds::messages::waypoint::{AuthzAction, AuthzCondition, AuthzOperation, AuthzPolicy, AuthzRule, AuthzSource};

/// As many as the API takes; a longer list cannot have been admitted.
const SERVICE_ACCOUNTS_MAX: usize = 16;
/// Complaints that are reported of one policy: enough to mend it, and bounded.
const COMPLAINTS_MAX: usize = 8;

/// The policy, and what is wrong with it.
pub fn policy(wire: &AuthzPolicy) -> (Policy, Vec<String>) {
    let source = wire.meta.as_ref().and_then(|meta| meta.source.as_ref());
    let (namespace, name) = source.map_or(("", ""), |source| (&source.namespace, &source.name));
    let mut reader = Reader { namespace: namespace.into(), complaints: Vec::new() };
    let mut rules: Vec<Rule> = wire.rules.iter().enumerate().map(|(index, rule)| reader.rule(index, rule)).collect();
    let action = match AuthzAction::try_from(wire.action) {
        Ok(AuthzAction::Allow) => Action::Allow,
        Ok(AuthzAction::Deny) => Action::Deny,
        Ok(AuthzAction::Audit) => Action::Audit,
        Ok(AuthzAction::Custom) => {
            if wire.provider.is_empty() {
                reader.complain("provider: is empty: whatever the policy matches is refused".to_owned());
            }
            Action::Custom { provider: wire.provider.as_str().into() }
        }
        Err(_) => {
            reader.complain(format!("action: {} is not known: everything is refused", wire.action));
            rules = vec![Rule { when: vec![Condition::unreadable()], ..Rule::default() }];
            Action::Deny
        }
    };
    let policy = Policy { namespace: reader.namespace, name: name.into(), action, dry_run: wire.dry_run, rules };
    (policy, reader.complaints)
}

/// Refuses everything.
pub fn unreadable(name: &str) -> Policy {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let rule = Rule { when: vec![Condition::unreadable()], ..Rule::default() };
    Policy { namespace: namespace.into(), name: name.into(), action: Action::Deny, dry_run: false, rules: vec![rule] }
}

struct Reader {
    namespace: Arc<str>,
    complaints: Vec<String>,
}

impl Reader {
    fn complain(&mut self, text: String) {
        match self.complaints.len() {
            COMPLAINTS_MAX => self.complaints.push("and more".to_owned()),
            fewer if fewer < COMPLAINTS_MAX => self.complaints.push(text),
            _ => {}
        }
    }

    fn rule(&mut self, index: usize, wire: &AuthzRule) -> Rule {
        let at = |part: &str, within: usize| format!("rules[{index}].{part}[{within}]");
        Rule {
            from: wire.from.iter().enumerate().map(|(within, source)| self.source(&at("from", within), source)).collect(),
            to: wire.to.iter().enumerate().map(|(within, operation)| self.operation(&at("to", within), operation)).collect(),
            when: wire.when.iter().enumerate().map(|(within, condition)| self.condition(&at("when", within), condition)).collect(),
        }
    }

    fn source(&mut self, at: &str, wire: &AuthzSource) -> Vec<Condition> {
        let fields = [
            ("principals", Attribute::Principal, &wire.principals, &wire.not_principals),
            ("requestPrincipals", Attribute::RequestPrincipal, &wire.request_principals, &wire.not_request_principals),
            ("namespaces", Attribute::Namespace, &wire.namespaces, &wire.not_namespaces),
            ("serviceAccounts", Attribute::ServiceAccount, &wire.service_accounts, &wire.not_service_accounts),
            ("ipBlocks", Attribute::SourceIp, &wire.ip_blocks, &wire.not_ip_blocks),
            ("remoteIpBlocks", Attribute::RemoteIp, &wire.remote_ip_blocks, &wire.not_remote_ip_blocks),
            ("trustDomains", Attribute::TrustDomain, &wire.trust_domains, &wire.not_trust_domains),
        ];
        let mut conditions = self.fields(at, &fields);
        let accounts = wire.service_accounts.len() + wire.not_service_accounts.len();
        let others = [&wire.principals, &wire.not_principals, &wire.namespaces, &wire.not_namespaces];
        if accounts > 0 && others.iter().any(|list| !list.is_empty()) {
            self.complain(format!("{at}: serviceAccounts cannot stand beside principals or namespaces"));
            conditions.push(Condition::unreadable());
        }
        if wire.service_accounts.len().max(wire.not_service_accounts.len()) > SERVICE_ACCOUNTS_MAX {
            self.complain(format!("{at}: more than {SERVICE_ACCOUNTS_MAX} serviceAccounts"));
            conditions.push(Condition::unreadable());
        }
        conditions
    }

    fn operation(&mut self, at: &str, wire: &AuthzOperation) -> Vec<Condition> {
        let fields = [
            ("hosts", Attribute::Host, &wire.hosts, &wire.not_hosts),
            ("ports", Attribute::DestinationPort, &wire.ports, &wire.not_ports),
            ("methods", Attribute::Method, &wire.methods, &wire.not_methods),
            ("paths", Attribute::Path, &wire.paths, &wire.not_paths),
        ];
        self.fields(at, &fields)
    }

    /// The fields that ask something. One that asks nothing at all says less than its author meant.
    fn fields(&mut self, at: &str, fields: &[(&str, Attribute, &Vec<String>, &Vec<String>)]) -> Vec<Condition> {
        let asking = fields.iter().filter(|(_, _, values, not_values)| !values.is_empty() || !not_values.is_empty());
        let conditions: Vec<Condition> = asking
            .map(|(name, attribute, values, not_values)| {
                self.both(&format!("{at}.{name}"), attribute.clone(), values, not_values)
            })
            .collect();
        if conditions.is_empty() {
            self.complain(format!("{at}: has no field"));
            return vec![Condition::unreadable()];
        }
        conditions
    }

    fn condition(&mut self, at: &str, wire: &AuthzCondition) -> Condition {
        let Some(attribute) = Attribute::of_key(&wire.key) else {
            self.complain(format!("{at}: key {:?} is not known", wire.key));
            return Condition::unreadable();
        };
        if wire.values.is_empty() && wire.not_values.is_empty() {
            self.complain(format!("{at}: neither values nor notValues"));
            return Condition::unreadable();
        }
        self.both(&format!("{at} ({})", wire.key), attribute, &wire.values, &wire.not_values)
    }

    fn both(&mut self, at: &str, attribute: Attribute, values: &[String], not_values: &[String]) -> Condition {
        let values = self.entries(at, &attribute, values);
        let not_values = self.entries(at, &attribute, not_values);
        Condition { attribute, values, not_values }
    }

    fn entries(&mut self, at: &str, attribute: &Attribute, texts: &[String]) -> Vec<Entry<Pattern>> {
        let mut read = |text: &String| match Pattern::read(attribute, text, &self.namespace.clone()) {
            Ok(pattern) => Entry::Value(pattern),
            Err(why) => {
                self.complain(format!("{at}: {text:?} {why}"));
                Entry::Malformed
            }
        };
        texts.iter().map(&mut read).collect()
    }
}
