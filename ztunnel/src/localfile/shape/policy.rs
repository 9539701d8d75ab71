//! A policy as a local file writes it.

use std::sync::Arc;

use mesh_policy::policy::{self, Entry};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::words::Cidr;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Policy {
    name: Arc<str>,
    namespace: Arc<str>,
    scope: Reach,
    action: Action,
    rules: Vec<Vec<Vec<Match>>>,
    dry_run: bool,
}

impl From<Policy> for policy::Policy {
    fn from(of: Policy) -> policy::Policy {
        let rule = |matches: Vec<Match>| policy::Rule::new(matches.into_iter().map(Into::into));
        policy::Policy {
            name: of.name,
            namespace: of.namespace,
            scope: match of.scope {
                Reach::Global => policy::Scope::Global,
                Reach::Namespace => policy::Scope::Namespace,
                Reach::WorkloadSelector => policy::Scope::WorkloadSelector,
            },
            action: match of.action {
                Action::Allow => policy::Action::Allow,
                Action::Deny => policy::Action::Deny,
            },
            groups: of.rules.into_iter().map(|rules| policy::Group::new(rules.into_iter().map(rule))).collect(),
            dry_run: of.dry_run,
        }
    }
}

#[derive(Deserialize)]
enum Reach {
    Global,
    Namespace,
    WorkloadSelector,
}

#[derive(Deserialize)]
enum Action {
    Allow,
    Deny,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Match {
    namespaces: Vec<Text>,
    not_namespaces: Vec<Text>,
    service_accounts: Vec<Account>,
    not_service_accounts: Vec<Account>,
    principals: Vec<Text>,
    not_principals: Vec<Text>,
    source_ips: Vec<Cidr>,
    not_source_ips: Vec<Cidr>,
    destination_ips: Vec<Cidr>,
    not_destination_ips: Vec<Cidr>,
    destination_ports: Vec<u16>,
    not_destination_ports: Vec<u16>,
}

impl From<Match> for policy::Match {
    fn from(of: Match) -> policy::Match {
        let texts = |of: Vec<Text>| of.into_iter().map(|text| Entry::Value(text.into())).collect();
        let ranges = |of: Vec<Cidr>| of.into_iter().map(|range| Entry::Value(range.0)).collect();
        let ports = |of: Vec<u16>| of.into_iter().map(Entry::Value).collect();
        let accounts = |of: Vec<Account>| of.into_iter().map(Into::into).collect();
        policy::Match {
            namespaces: texts(of.namespaces),
            not_namespaces: texts(of.not_namespaces),
            service_accounts: accounts(of.service_accounts),
            not_service_accounts: accounts(of.not_service_accounts),
            principals: texts(of.principals),
            not_principals: texts(of.not_principals),
            source_ips: ranges(of.source_ips),
            not_source_ips: ranges(of.not_source_ips),
            destination_ips: ranges(of.destination_ips),
            not_destination_ips: ranges(of.not_destination_ips),
            destination_ports: ports(of.destination_ports),
            not_destination_ports: ports(of.not_destination_ports),
        }
    }
}

#[derive(Deserialize)]
enum Text {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    /// The value says nothing; the dump writes an empty list.
    Presence(IgnoredAny),
}

impl From<Text> for policy::StringMatch {
    fn from(of: Text) -> policy::StringMatch {
        match of {
            Text::Exact(text) => policy::StringMatch::Exact(text),
            Text::Prefix(text) => policy::StringMatch::Prefix(text),
            Text::Suffix(text) => policy::StringMatch::Suffix(text),
            Text::Presence(_) => policy::StringMatch::Presence,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Account {
    namespace: Arc<str>,
    service_account: Arc<str>,
}

impl From<Account> for policy::ServiceAccountMatch {
    fn from(of: Account) -> policy::ServiceAccountMatch {
        policy::ServiceAccountMatch { namespace: of.namespace, service_account: of.service_account }
    }
}
