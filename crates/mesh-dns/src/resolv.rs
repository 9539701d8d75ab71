//! `resolv.conf`: which servers to pass questions to, and the search domains. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    pub servers: Vec<SocketAddr>,
    /// In lower case, without final dots.
    pub search: Vec<String>,
}

/// As many servers as resolvers of C libraries use.
const MOST_SERVERS: usize = 3;
/// As many search domains as resolvers of C libraries use at least; more only multiply what a name may mean.
const MOST_SEARCH: usize = 32;

impl Resolv {
    /// Reads the text of a resolv.conf; lines that are not understood are skipped, as everywhere.
    pub fn parse(text: &str) -> Resolv {
        let mut resolv = Resolv::default();
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            match words.next() {
                Some("nameserver") => resolv.servers.extend(words.next().and_then(server)),
                // The last of the two kinds of line wins (resolv.conf(5)).
                Some("search" | "domain") => resolv.search = words.filter_map(domain).take(MOST_SEARCH).collect(),
                _ => {}
            }
        }
        resolv.servers.truncate(MOST_SERVERS);
        resolv
    }
}

fn server(text: &str) -> Option<SocketAddr> {
    if let Some((ip, scope)) = text.split_once('%') {
        // A link-local server with its interface by number; by name it would have to be looked up in another namespace.
        // An IPv4 address in IPv6 form has no scope.
        let ip = ip.parse::<Ipv6Addr>().ok().filter(|ip| ip.to_ipv4_mapped().is_none())?;
        return Some(SocketAddr::V6(SocketAddrV6::new(ip, 53, 0, scope.parse().ok()?)));
    }
    let ip: IpAddr = text.parse().ok()?;
    Some(SocketAddr::new(ip.to_canonical(), 53))
}

fn domain(text: &str) -> Option<String> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_search_domains_are_read_and_the_rest_is_skipped() {
        let text = "# local\nnameserver 10.96.0.10 ; cluster\nnameserver fd00::a\nnameserver fe80::1%2\nnameserver fe80::1%eth0\nnameserver ::ffff:1.2.3.4%2\nnameserver nonsense\n\
                    nameserver 10.0.0.4\ndomain old.example\nsearch ns1.svc.cluster.local. SVC.cluster.local\noptions ndots:5\n\nnameserver\n";
        let resolv = Resolv::parse(text);
        assert_eq!(
            resolv.servers.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
            ["10.96.0.10:53", "[fd00::a]:53", "[fe80::1%2]:53"]
        );
        assert_eq!(resolv.search, ["ns1.svc.cluster.local", "svc.cluster.local"]);
        assert_eq!(Resolv::parse(""), Resolv::default());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "(?s).*") {
            proptest::prop_assert!(Resolv::parse(&text).servers.len() <= MOST_SERVERS);
        }
    }
}
