use std::time::Duration;

use super::*;
use crate::recorder::Limits;

fn workload(name: &str) -> Arc<Workload> {
    let mut workload = Workload::named(&format!("Kubernetes//Pod/lab/{name}"), "lab", name);
    workload.workload_name = name.into();
    Arc::new(workload)
}

fn subject(source: &Arc<Workload>, destination: &Arc<Workload>) -> Subject {
    Subject {
        reporter: Reporter::Source,
        source: Party::known(source),
        source_principal: Some(source.identity()),
        destination: Party::known(destination),
        destination_principal: None,
        service: None,
        security: Security::MutualTls,
    }
}

fn recorder() -> Recorder {
    Recorder::new(Limits::DEFAULT)
}

/// The samples of traffic that are not zero: `name flags value`.
fn counted(recorder: &Recorder) -> Vec<String> {
    let text = String::from_utf8(recorder.render(Instant::now())).unwrap();
    let samples = text.lines().filter(|line| line.starts_with("istio_tcp_") && line.contains("response_flags"));
    let flags = |line: &str| line.split("response_flags=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    samples
        .map(|line| format!("{} {} {}", line.split('{').next().unwrap(), flags(line), line.rsplit(' ').next().unwrap()))
        .collect()
}

// Z-172
#[test]
fn connections_of_one_pair_share_their_handles() {
    let traffic = Traffic::new(recorder());
    let (a, b) = (workload("a"), workload("b"));
    let first = traffic.handles(&subject(&a, &b));
    let second = traffic.handles(&subject(&a.clone(), &b.clone()));
    assert!(Arc::ptr_eq(&first, &second));
    assert!(!Arc::ptr_eq(&first, &traffic.handles(&subject(&b, &a))));
    let changed = workload("a"); // the same facts, delivered anew, are another snapshot but the same series
    traffic.handles(&subject(&changed, &b)).opened();
    first.opened();
    assert_eq!(traffic.cached(), 3);
    assert!(counted(traffic.recorder()).contains(&"istio_tcp_connections_opened_total - 2".to_owned()));
}

// Z-240, Z-241
#[test]
fn opened_counts_without_a_flag_and_the_end_with_its_own() {
    let traffic = Traffic::new(recorder());
    let handles = traffic.handles(&subject(&workload("a"), &workload("b")));
    handles.opened();
    handles.received(84);
    handles.sent(159);
    handles.sent(1);
    handles.closed(ResponseFlags::None);
    handles.opened();
    handles.closed(ResponseFlags::Deny);
    assert_eq!(
        counted(traffic.recorder()),
        [
            "istio_tcp_connections_closed_total - 1",
            "istio_tcp_connections_closed_total DENY 1",
            "istio_tcp_connections_failed_total DENY 1",
            "istio_tcp_connections_opened_total - 2",
            "istio_tcp_received_bytes_total - 84",
            "istio_tcp_sent_bytes_total - 160",
        ]
    );
}

#[test]
fn a_destination_from_the_directory_lends_its_identity() {
    let traffic = Traffic::new(recorder());
    let told =
        Subject { destination_principal: Some(SpiffeId::new("td", "lab", "proved")), ..subject(&workload("a"), &workload("b")) };
    traffic.handles(&told).opened();
    traffic.handles(&subject(&workload("a"), &workload("b"))).opened();
    let text = String::from_utf8(traffic.recorder().render(Instant::now())).unwrap();
    for principal in ["spiffe://td/ns/lab/sa/proved", "spiffe://cluster.local/ns/lab/sa/default"] {
        assert!(text.contains(&format!("destination_principal=\"{principal}\"")), "{principal}");
    }
}

#[test]
fn what_nobody_uses_leaves_the_cache_and_then_the_recorder() {
    let traffic = Traffic::new(recorder());
    let start = Instant::now();
    let held = traffic.handles(&subject(&workload("a"), &workload("b")));
    traffic.handles(&subject(&workload("c"), &workload("d"))).opened();
    traffic.sweep(start);
    assert_eq!(traffic.cached(), 2, "it was asked for a moment ago");
    traffic.sweep(start + Duration::from_secs(60));
    assert_eq!(traffic.cached(), 1);
    traffic.sweep(start + Duration::from_secs(660));
    assert_eq!(traffic.recorder().series(), 3, "opened, received and sent of the pair that is held");
    drop(held);
}

#[test]
fn a_flood_of_subjects_stays_bounded() {
    let traffic = Traffic::new(Recorder::new(Limits { series: 100, ..Limits::DEFAULT }));
    let b = workload("b");
    for index in 0..CACHED + 10 {
        traffic.handles(&subject(&workload(&index.to_string()), &b)).opened();
    }
    assert_eq!((traffic.cached(), traffic.recorder().series()), (CACHED, 100));
}
