//! `/etc/hosts`: names that an operator wrote down, which count before what name servers say (hosts(5)). Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Names read of a file: a list that blocks sites may have millions, and none of these is asked for here.
const NAMES_MAX: usize = 16_384;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    /// Reads the text of a hosts file; lines that are not understood are skipped, as everywhere.
    pub fn parse(text: &str) -> Hosts {
        let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
            for name in words {
                if hosts.len() >= NAMES_MAX {
                    return Hosts(hosts);
                }
                let known = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
                if !known.contains(&ip) {
                    known.push(ip);
                }
            }
        }
        Hosts(hosts)
    }

    /// `name` in lower case without a final dot.
    pub fn find(&self, name: &str) -> Option<Arc<[IpAddr]>> {
        self.0.get(name).map(|found| found.as_slice().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_line_is_known_and_the_rest_is_skipped() {
        let hosts = Hosts::parse("# mine\n127.0.0.1 localhost\n10.0.0.1 DB.example. db # master\n10.0.0.2\tdb\nfd00::1 db\nnonsense db\n10.0.0.3\n\n10.0.0.1 db\n");
        let found = |name: &str| hosts.find(name).map(|found| found.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "));
        assert_eq!(found("db").as_deref(), Some("10.0.0.1 10.0.0.2 fd00::1"));
        assert_eq!(found("db.example").as_deref(), Some("10.0.0.1"));
        assert_eq!(found("example"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "(?s).*") {
            let _ = Hosts::parse(&text);
        }
    }
}
