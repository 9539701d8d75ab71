//! Tests of `baggage`.

use proptest::prelude::*;

use super::*;

fn full() -> Baggage {
    Baggage {
        cluster: Some("c1".into()),
        namespace: Some("shop".into()),
        workload_kind: Some(WorkloadKind::Deployment),
        workload_name: Some("web".into()),
        service: Some("web".into()),
        revision: Some("v1".into()),
        region: Some("r1".into()),
        zone: Some("z1".into()),
    }
}

fn parse(lines: &[&[u8]]) -> Baggage {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(BAGGAGE, HeaderValue::from_bytes(line).unwrap());
    }
    Baggage::parse(&headers)
}

#[test]
fn it_is_emitted_in_the_fields_order() {
    assert_eq!(
        full().emit(),
        "k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1,\
         cloud.region=r1,cloud.availability_zone=z1"
    );
    assert_eq!(Baggage::default().emit(), "");
}

#[test]
fn a_value_that_would_break_the_format_is_left_out() {
    for bad in ["", "a,b", "a=b", "a b", "a\nb", "ä"] {
        let baggage = Baggage { service: Some(bad.into()), ..full() };
        assert_eq!(parse(&[baggage.emit().as_bytes()]), Baggage { service: None, ..full() }, "{bad:?}");
    }
}

// Z-004
#[test]
fn all_keys_are_read() {
    let line = b"k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,\
                 service.version=v1,cloud.region=r1,cloud.availability_zone=z1,unknown=x";
    assert_eq!(parse(&[line]), full());
    for kind in [WorkloadKind::CronJob, WorkloadKind::Pod, WorkloadKind::Job] {
        let baggage = Baggage { workload_kind: Some(kind), ..full() };
        assert_eq!(parse(&[baggage.emit().as_bytes()]), baggage);
    }
}

// Z-005
#[test]
fn empty_values_are_absent() {
    let line = b"k8s.cluster.name=,k8s.namespace.name=,k8s.deployment.name=,service.name=,service.version=";
    assert_eq!(parse(&[line]), Baggage::default());
}

// Z-006
#[test]
fn several_lines_are_merged_and_later_ones_win() {
    let lines: &[&[u8]] = &[
        b"k8s.cluster.name=c0,k8s.namespace.name=shop,k8s.deployment.name=web",
        b"service.name=web,service.version=v1",
        b"k8s.cluster.name=c1,cloud.region=r1,cloud.availability_zone=z1",
    ];
    assert_eq!(parse(lines), full());
}

// Z-007
#[test]
fn no_header_says_nothing() {
    assert_eq!(parse(&[]), Baggage::default());
}

// Z-008
#[test]
fn what_is_emitted_is_read_back() {
    assert_eq!(parse(&[full().emit().as_bytes()]), full());
}

#[test]
fn a_second_equals_sign_ends_the_value_and_blanks_are_kept() {
    assert_eq!(parse(&[b"service.name=a=b"]).service.as_deref(), Some("a"));
    assert_eq!(parse(&[b" service.name=a"]).service, None);
}

#[test]
fn one_line_that_is_not_ascii_voids_all() {
    assert_eq!(parse(&[b"service.name=web", b"cloud.region=\xff"]), Baggage::default());
}

proptest! {
    #[test]
    fn any_bytes_are_read(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
        let mut headers = HeaderMap::new();
        for line in lines {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                headers.append(BAGGAGE, value);
            }
        }
        let baggage = Baggage::parse(&headers);
        let again = parse(&[baggage.emit().as_bytes()]);
        // A value with blanks is read but never sent.
        prop_assert!(again.service.is_none() || again.service == baggage.service);
    }

    #[test]
    fn any_plain_values_survive(values in prop::collection::vec(prop::option::of("[!-+\\--<>-~]{1,40}"), 7)) {
        let [cluster, namespace, workload_name, service, revision, region, zone]: [Option<String>; 7] =
            values.try_into().unwrap();
        let workload_kind = workload_name.is_some().then_some(WorkloadKind::Job);
        let baggage = Baggage { cluster, namespace, workload_kind, workload_name, service, revision, region, zone };
        prop_assert_eq!(parse(&[baggage.emit().as_bytes()]), baggage);
    }
}
