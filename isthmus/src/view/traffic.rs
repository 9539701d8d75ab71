//! Who talked to whom, how much, how protected, and who was refused: the rows of the live view, from the counters of
//! all nodes. Pure. A connection is counted at both ends; the destination's word counts where there is one.

use std::collections::BTreeMap;

use super::metrics::Sample;

/// How the verdict of a row of requests begins.
pub const REQUESTS: &str = "HTTP";

/// One line of the view.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub source: String,
    pub destination: String,
    pub service: String,
    pub encrypted: bool,
    pub open: u64,
    pub opened: u64,
    pub bytes: u64,
    pub denied: u64,
    pub failed: u64,
    /// Source and destination workload as NAMESPACE/NAME.
    pub from: String,
    pub to: String,
    /// What is decided about this pair now, and by what; none if it was not asked.
    pub verdict: Option<String>,
}

/// Counters that both ends of a connection have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    source: (String, String),
    destination: (String, String),
}

#[derive(Clone, Debug, Default)]
struct Sums {
    row: Row,
    closed: u64,
}

/// The rows of all nodes' samples, the busiest pairs in a stable order.
pub fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut by_end: BTreeMap<(Pair, String, &str), Sums> = BTreeMap::new();
    for sample in samples {
        let label = |key: &str| sample.labels.get(key).map_or("unknown", String::as_str);
        let pair = Pair {
            source: (label("source_workload_namespace").to_owned(), label("source_workload").to_owned()),
            destination: (label("destination_workload_namespace").to_owned(), label("destination_workload").to_owned()),
        };
        let reporter = if label("reporter") == "destination" { "destination" } else { "source" };
        let security = label("connection_security_policy");
        let sums = match sample.name.strip_prefix("istio_tcp_") {
            Some("connections_opened_total" | "connections_closed_total" | "connections_failed_total" | "received_bytes_total" | "sent_bytes_total") => {
                by_end.entry((pair.clone(), security.to_owned(), reporter)).or_default()
            }
            _ => continue,
        };
        let count = sample.value.max(0.0) as u64;
        let row = &mut sums.row;
        row.source = name(label("source_principal"), &pair.source);
        row.destination = name(label("destination_principal"), &pair.destination);
        row.from = format!("{}/{}", pair.source.0, pair.source.1);
        row.to = format!("{}/{}", pair.destination.0, pair.destination.1);
        row.encrypted = security == "mutual_tls";
        if label("destination_service_name") != "unknown" {
            row.service = format!("{}.{}", label("destination_service_name"), label("destination_service_namespace"));
        }
        let denied = label("response_flags") == "DENY";
        match sample.name.as_str() {
            "istio_tcp_connections_opened_total" => row.opened += count,
            "istio_tcp_connections_closed_total" => sums.closed += count,
            "istio_tcp_connections_failed_total" if denied => row.denied += count,
            "istio_tcp_connections_failed_total" => row.failed += count,
            _ => row.bytes += count,
        }
    }
    told_once(by_end)
}

/// What waypoints say of requests: one row for each caller, endpoint and service, with how often each status came.
pub fn requests(samples: &[Sample]) -> Vec<Row> {
    type Codes = BTreeMap<String, u64>;
    let mut rows: BTreeMap<(String, String, String), (Row, Codes)> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.name == "istio_requests_total") {
        let label = |key: &str| sample.labels.get(key).map_or("unknown", String::as_str);
        let source = (label("source_workload_namespace").to_owned(), label("source_workload").to_owned());
        // What was refused has reached no workload: then the service is all there is to say.
        let destination = (label("destination_workload_namespace").to_owned(), label("destination_workload").to_owned());
        let service = format!("{}.{}", label("destination_service_name"), label("destination_service_namespace"));
        let to = if destination.1 == "unknown" { "-".to_owned() } else { format!("{}/{}", destination.0, destination.1) };
        let (row, codes) = rows.entry((label("source_principal").to_owned(), to.clone(), service.clone())).or_default();
        row.source = name(label("source_principal"), &source);
        row.destination = to.clone();
        row.service = service;
        row.encrypted = label("connection_security_policy") == "mutual_tls";
        row.from = format!("{}/{}", source.0, source.1);
        row.to = to;
        let (code, count) = (label("response_code"), sample.value.max(0.0) as u64);
        *codes.entry(code.to_owned()).or_default() += count;
        row.opened += count;
        if matches!(code, "401" | "403") {
            row.denied += count;
        }
    }
    let told = |(mut row, codes): (Row, Codes)| {
        let codes: Vec<String> = codes.iter().map(|(code, count)| format!("{count}× {code}")).collect();
        row.verdict = Some(format!("{REQUESTS} {}", codes.join(", ")));
        row
    };
    rows.into_values().map(told).collect()
}

/// Drops the source's word where the destination has spoken too, and adds up what is left.
fn told_once(by_end: BTreeMap<(Pair, String, &str), Sums>) -> Vec<Row> {
    let told: Vec<(Pair, String)> = by_end.keys().filter(|(_, _, reporter)| *reporter == "destination").map(|(pair, security, _)| (pair.clone(), security.clone())).collect();
    let mut rows = Vec::new();
    let services: BTreeMap<(Pair, String), String> =
        by_end.iter().filter(|(_, sums)| !sums.row.service.is_empty()).map(|((pair, security, _), sums)| ((pair.clone(), security.clone()), sums.row.service.clone())).collect();
    for ((pair, security, reporter), sums) in by_end {
        let key = (pair, security);
        if reporter == "source" && told.contains(&key) {
            continue;
        }
        let mut row = sums.row;
        row.open = row.opened.saturating_sub(sums.closed);
        if let Some(service) = services.get(&key) {
            row.service.clone_from(service);
        }
        rows.push(row);
    }
    rows
}

/// An identity without its trust domain; a workload that showed none by its name, and nobody at all as `unknown`.
fn name(principal: &str, workload: &(String, String)) -> String {
    match identity(principal) {
        Some(identity) => identity,
        None if workload.1 == "unknown" => "unknown".to_owned(),
        None => format!("{}/{} (no identity)", workload.0, workload.1),
    }
}

/// `spiffe://cluster.local/ns/shop/sa/cart` as `ns/shop/sa/cart`: the trust domain is the same for all.
pub fn identity(principal: &str) -> Option<String> {
    principal.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).map(|(_, path)| path.to_owned())
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::metrics::samples;

    fn line(name: &str, reporter: &str, flags: &str, value: u64) -> String {
        format!(
            "istio_tcp_{name}{{reporter=\"{reporter}\",source_workload=\"load\",source_workload_namespace=\"shop\",source_principal=\"spiffe://cluster.local/ns/shop/sa/load\",\
             destination_workload=\"front\",destination_workload_namespace=\"shop\",destination_principal=\"spiffe://cluster.local/ns/shop/sa/front\",\
             destination_service_name=\"front\",destination_service_namespace=\"shop\",connection_security_policy=\"mutual_tls\",response_flags=\"{flags}\"}} {value}\n"
        )
    }

    #[test]
    fn a_connection_that_both_ends_report_is_counted_once() {
        let text = line("connections_opened_total", "source", "-", 5)
            + &line("connections_opened_total", "destination", "-", 5)
            + &line("connections_closed_total", "destination", "-", 3)
            + &line("connections_closed_total", "destination", "DENY", 1)
            + &line("connections_failed_total", "destination", "DENY", 1)
            + &line("received_bytes_total", "destination", "-", 100)
            + &line("sent_bytes_total", "destination", "-", 900);
        let rows = rows(&samples(&text));
        assert_eq!(
            rows,
            [Row {
                source: "ns/shop/sa/load".into(),
                destination: "ns/shop/sa/front".into(),
                service: "front.shop".into(),
                encrypted: true,
                open: 1,
                opened: 5,
                bytes: 1000,
                denied: 1,
                failed: 0,
                from: "shop/load".into(),
                to: "shop/front".into(),
                verdict: None,
            }]
        );
    }

    #[test]
    fn requests_are_told_by_their_status() {
        let line = |destination: &str, code: u16, value: u64| {
            format!(
                "istio_requests_total{{reporter=\"waypoint\",source_workload=\"front\",source_workload_namespace=\"shop\",source_principal=\"spiffe://cluster.local/ns/shop/sa/front\",\
                 destination_workload=\"{destination}\",destination_workload_namespace=\"shop\",destination_service_name=\"catalog\",destination_service_namespace=\"shop\",\
                 connection_security_policy=\"mutual_tls\",response_code=\"{code}\"}} {value}\n"
            )
        };
        let text = line("catalog", 200, 90) + &line("catalog-v2", 200, 10) + &line("catalog", 500, 1) + &line("unknown", 403, 3);
        let told: Vec<String> = requests(&samples(&text)).into_iter().map(|row| format!("{} {} {} {} {}", row.source, row.destination, row.service, row.denied, row.verdict.unwrap())).collect();
        assert_eq!(told, [
            "ns/shop/sa/front - catalog.shop 3 HTTP 3× 403",
            "ns/shop/sa/front shop/catalog catalog.shop 0 HTTP 90× 200, 1× 500",
            "ns/shop/sa/front shop/catalog-v2 catalog.shop 0 HTTP 10× 200",
        ]);
    }

    #[test]
    fn a_caller_without_identity_is_named_as_such() {
        assert_eq!(name("unknown", &("outside".into(), "courier".into())), "outside/courier (no identity)");
        assert_eq!(name("unknown", &("unknown".into(), "unknown".into())), "unknown");
    }

    #[test]
    fn bytes_are_written_for_people() {
        for (count, text) in [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (2_000_000, "2.0 MB"), (3_400_000_000, "3.4 GB")] {
            assert_eq!(bytes(count), text);
        }
    }
}
