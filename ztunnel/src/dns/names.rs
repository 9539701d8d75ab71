//! What a name may mean: the short forms that Kubernetes allows, and the wildcards that may cover it. Pure.

/// One reading of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    pub name: String,
    /// How many leading labels of the asked name are left when a search domain was taken off; the answer then says so by
    /// a CNAME.
    pub stripped: Option<usize>,
}

/// Every reading of a name, in the order in which they are tried, without duplicates. `name` is in lower case and has no
/// final dot; `domain` is the cluster's.
pub fn aliases(name: &str, namespace: &str, domain: &str, search: &[String]) -> Vec<Alias> {
    let mut aliases = Vec::new();
    let mut add = |name: String, stripped| {
        if !aliases.iter().any(|known: &Alias| known.name == name) {
            aliases.push(Alias { name, stripped });
        }
    };
    add(name.to_owned(), None);
    for expansion in expansions(name, namespace, domain) {
        add(expansion, None);
    }
    for rest in search.iter().filter_map(|domain| without_domain(name, domain)) {
        let stripped = Some(labels(rest));
        add(rest.to_owned(), stripped);
        for expansion in expansions(rest, namespace, domain) {
            add(expansion, stripped);
        }
    }
    aliases
}

/// The full names that a short Kubernetes name may stand for.
pub fn expansions(name: &str, namespace: &str, domain: &str) -> Vec<String> {
    let service = name.ends_with(".svc");
    match labels(name) {
        1 => vec![format!("{name}.{namespace}.svc.{domain}")],
        2 => vec![format!("{name}.svc.{domain}"), format!("{name}.{namespace}.svc.{domain}")],
        3 if service => vec![format!("{name}.{domain}"), format!("{name}.svc.{domain}")],
        3 => vec![format!("{name}.svc.{domain}")],
        4 if service => vec![format!("{name}.{domain}")],
        _ => Vec::new(),
    }
}

/// The name itself, then the wildcards that cover it, the narrowest first.
pub fn candidates(name: &str) -> impl Iterator<Item = String> + '_ {
    let parents = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
    std::iter::once(name.to_owned()).chain(parents.filter(|parent| !parent.is_empty()).map(|parent| format!("*.{parent}")))
}

/// What is left of a name before the domain; `None` when it is not inside the domain, or is the domain itself.
pub fn without_domain<'n>(name: &'n str, domain: &str) -> Option<&'n str> {
    let rest = name.strip_suffix(domain)?.strip_suffix('.')?;
    (!rest.is_empty() && !domain.is_empty()).then_some(rest)
}

/// The search domains of a pod, of whose own resolv.conf we know nothing (spec/dataplane.md 7).
pub fn cluster_search(namespace: &str, domain: &str) -> Vec<String> {
    vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()]
}

fn labels(name: &str) -> usize {
    name.split('.').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "cluster.local";

    // Z-017, Z-018
    #[test]
    fn a_domain_is_taken_off_only_at_a_dot_and_only_if_something_is_left() {
        for (name, domain, rest) in [
            ("www.example.com", "example.com", Some("www")),
            ("a.b.example.com", "example.com", Some("a.b")),
            ("example.com", "example.com", None),
            ("badexample.com", "example.com", None),
            ("www.example.org", "example.com", None),
            ("www.example.com", "com", Some("www.example")),
            ("www.example.com", "", None),
            (".example.com", "example.com", None),
        ] {
            assert_eq!(without_domain(name, domain), rest, "{name} in {domain}");
        }
    }

    // Z-019
    #[test]
    fn short_names_become_full_ones() {
        for (name, want) in [
            ("name", "name.client.svc.cluster.local"),
            ("name.other", "name.other.svc.cluster.local name.other.client.svc.cluster.local"),
            ("name.other.svc", "name.other.svc.cluster.local name.other.svc.svc.cluster.local"),
            ("a.name.other", "a.name.other.svc.cluster.local"),
            ("a.name.other.svc", "a.name.other.svc.cluster.local"),
            ("a.name.other.x", ""),
            ("name.other.svc.cluster.local", ""),
        ] {
            assert_eq!(expansions(name, "client", DOMAIN).join(" "), want, "{name}");
        }
    }

    // Z-020
    #[test]
    fn wildcards_come_after_the_name_the_narrowest_first() {
        let all = |name| candidates(name).collect::<Vec<_>>().join(" ");
        assert_eq!(all("a.b.example.com"), "a.b.example.com *.b.example.com *.example.com *.com");
        assert_eq!(all("a"), "a");
        assert_eq!(all("a."), "a.");
    }

    // Z-025
    #[test]
    fn readings_are_tried_in_order_and_remember_what_was_stripped() {
        let all = |name: &str, search: &[String]| {
            aliases(name, "ns1", DOMAIN, search)
                .into_iter()
                .map(|alias| alias.stripped.map_or(alias.name.clone(), |kept| format!("{}[{kept}]", alias.name)))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let search = cluster_search("ns1", DOMAIN);
        assert_eq!(search, ["ns1.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
        assert_eq!(
            all("a.ns1.svc.cluster.local", &search),
            "a.ns1.svc.cluster.local a[1] a.ns1[2] a.ns1.ns1.svc.cluster.local[2] a.ns1.svc[3] a.ns1.svc.svc.cluster.local[3]"
        );
        assert_eq!(
            all("www.example.com.ns1.svc.cluster.local", &search),
            "www.example.com.ns1.svc.cluster.local www.example.com[3] www.example.com.svc.cluster.local[3] \
             www.example.com.ns1[4] www.example.com.ns1.svc[5]"
        );
        assert_eq!(all("a", &search), "a a.ns1.svc.cluster.local");
        let own = ["corp.example".to_owned()];
        assert_eq!(
            all("db.corp.example", &own),
            "db.corp.example db.corp.example.svc.cluster.local db[1] db.ns1.svc.cluster.local[1]"
        );
    }
}
