//! The page of everything there is to say: conditions, notes and addresses by object, and what is wrong with the files.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::objects::{Kind, NsName, ObjectKey};
use crate::translate::Translation;
use crate::watch::{Findings, Origin};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// Every file was read without an error at least once, so the mesh is told.
    pub is_whole: bool,
    /// One line each, with file and line, the worst first.
    pub findings: Vec<String>,
    pub objects: Vec<Entry>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// `file:line`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// What of the object is not honoured, and other remarks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Addresses that were given to the hosts of a ServiceEntry; kept over restarts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub observed_generation: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Address {
    pub value: IpAddr,
    pub host: String,
}

pub fn page(translation: &Translation, origins: &BTreeMap<ObjectKey, Origin>, findings: &Findings, is_whole: bool) -> Page {
    let mut entries: BTreeMap<ObjectKey, Entry> = BTreeMap::new();
    for key in translation.reported() {
        let report = translation.report(key);
        let generation = translation.cluster().object(key).map_or(0, |object| object.meta().generation);
        let entry = entries.entry(key.clone()).or_default();
        entry.notes = report.notes;
        entry.conditions = report
            .conditions
            .into_iter()
            .map(|condition| Condition {
                kind: condition.kind.into(),
                status: if condition.is_true { "True" } else { "False" }.into(),
                reason: condition.reason.into(),
                message: condition.message,
                observed_generation: generation,
            })
            .collect();
    }
    for (claim, ips) in translation.vips().all() {
        let key = ObjectKey { kind: Kind::ServiceEntry, name: claim.entry.clone() };
        let addresses = ips.iter().map(|ip| Address { value: *ip, host: claim.host.to_string() });
        entries.entry(key).or_default().addresses.extend(addresses);
    }
    for (key, entry) in &mut entries {
        entry.kind = key.kind.to_string();
        entry.namespace = key.name.namespace.to_string();
        entry.name = key.name.name.to_string();
        entry.origin = origins.get(key).map(Origin::to_string).unwrap_or_default();
    }
    Page { is_whole, findings: findings.lines(), objects: entries.into_values().collect() }
}

impl Page {
    /// The addresses that an earlier page gave to hosts.
    pub fn remembered(&self) -> impl Iterator<Item = (NsName, &str, IpAddr)> {
        let entries = self.objects.iter().filter(|entry| entry.kind == Kind::ServiceEntry.name());
        entries.flat_map(|entry| entry.addresses.iter().map(|address| (NsName::new(&entry.namespace, &entry.name), &*address.host, address.value)))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::translate::tests::{events, translation};

    const YAML: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {namespace: shop, name: e}\nspec: {hosts: [a.example], resolution: DNS, exportTo: [\".\"]}\n---\n\
        apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop, name: p, generation: 3}\nspec: {action: AUDIT}\n";

    #[test]
    fn a_page_says_what_is_wrong_and_where() {
        let mut translation = translation();
        translation.apply(events(YAML));
        let key = ObjectKey::new(Kind::AuthorizationPolicy, "shop", "p");
        let origins = BTreeMap::from([(key, Origin { file: std::path::Path::new("a.yaml").into(), line: 7 })]);
        let page = page(&translation, &origins, &Findings::default(), true);
        expect![[r#"
            {
              "isWhole": true,
              "findings": [],
              "objects": [
                {
                  "kind": "ServiceEntry",
                  "namespace": "shop",
                  "name": "e",
                  "notes": [
                    "spec.exportTo is not honoured: the host is visible to the whole mesh"
                  ],
                  "addresses": [
                    {
                      "value": "240.240.172.118",
                      "host": "a.example"
                    },
                    {
                      "value": "2001:2::1a86:99f7",
                      "host": "a.example"
                    }
                  ]
                },
                {
                  "kind": "AuthorizationPolicy",
                  "namespace": "shop",
                  "name": "p",
                  "origin": "a.yaml:7",
                  "conditions": [
                    {
                      "type": "ZtunnelAccepted",
                      "status": "False",
                      "reason": "UnsupportedValue",
                      "message": "action AUDIT cannot be enforced at L4; the policy is not in force",
                      "observedGeneration": 3
                    }
                  ]
                }
              ]
            }"#]].assert_eq(&serde_json::to_string_pretty(&page).unwrap());
    }

    #[test]
    fn addresses_are_remembered_by_the_page() {
        let mut first = translation();
        first.remember(NsName::new("shop", "e"), "a.example".into(), [240, 240, 1, 2].into());
        first.apply(events(YAML));
        let text = serde_json::to_string(&page(&first, &BTreeMap::new(), &Findings::default(), true)).unwrap();
        let read: Page = serde_json::from_str(&text).unwrap();
        let mut second = translation();
        for (entry, host, ip) in read.remembered() {
            second.remember(entry, host.into(), ip);
        }
        second.apply(events(YAML));
        let all = |translation: &Translation| translation.vips().all().map(|(claim, ips)| (claim.clone(), ips.clone())).collect::<Vec<_>>();
        assert_eq!(all(&first), all(&second));
        assert!(format!("{:?}", all(&second)).contains("240.240.1.2"));
    }
}
