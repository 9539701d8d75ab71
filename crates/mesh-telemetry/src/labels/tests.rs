use super::*;

fn workload() -> Workload {
    let mut workload = Workload::named("Kubernetes//Pod/lab/cart-7c", "lab", "cart-7c");
    workload.workload_name = "cart".into();
    workload.canonical_name = "cart-app".into();
    workload.canonical_revision = "v2".into();
    workload.service_account = "cart".into();
    workload.locality.region = "eu".into();
    workload
}

fn shown(labels: &[Label]) -> String {
    labels.iter().map(|label| format!("{}={}\n", label.key(), label.value())).collect()
}

// Z-240
#[test]
fn traffic_labels_have_the_fields_order_and_unknown_where_nothing_is_known() {
    let (destination, service) = (workload(), Service::named("lab", "cart.lab.svc.cluster.local"));
    let told =
        Derived { workload_name: "shop".into(), canonical_name: "shop-app".into(), zone: "eu-1".into(), ..Derived::default() };
    let identity = SpiffeId::new("cluster.local", "lab", "shop");
    let what = Labelled {
        reporter: Reporter::Destination,
        source: End::Told(&told),
        source_principal: Some(&identity),
        destination: End::Known(&destination),
        destination_principal: Some(&destination.identity()),
        service: Some(&service),
        security: Security::MutualTls,
    };
    let want = "\
reporter=destination
source_workload=shop
source_canonical_service=shop-app
source_canonical_revision=unknown
source_workload_namespace=unknown
source_principal=spiffe://cluster.local/ns/lab/sa/shop
source_app=shop
source_version=unknown
source_cluster=unknown
destination_service=cart.lab.svc.cluster.local
destination_service_namespace=lab
destination_service_name=cart
destination_workload=cart
destination_canonical_service=cart-app
destination_canonical_revision=v2
destination_workload_namespace=lab
destination_principal=spiffe://cluster.local/ns/lab/sa/cart
destination_app=cart-app
destination_version=v2
destination_cluster=Kubernetes
request_protocol=tcp
response_flags=DENY
connection_security_policy=mutual_tls
source_region=unknown
source_zone=eu-1
destination_region=eu
destination_zone=unknown
";
    assert_eq!(shown(&traffic(&what, ResponseFlags::Deny)), want);

    let nobody = Labelled {
        source: End::Unknown,
        source_principal: None,
        destination: End::Unknown,
        destination_principal: None,
        service: None,
        security: Security::Unknown,
        reporter: Reporter::Source,
    };
    let labels = traffic(&nobody, ResponseFlags::None);
    assert_eq!(labels.len(), 27);
    assert_eq!(labels.iter().filter(|label| label.value() == "unknown").count(), 24);
}

#[test]
fn who_asked_has_eight_labels_and_a_dns_question_four() {
    let labels = source(End::Known(&workload()), Some(&workload().identity()));
    assert_eq!(labels.len(), 8);
    assert_eq!((labels[0].key(), labels[7].key()), ("source_workload", "source_cluster"));
    assert_eq!(
        shown(&dns("AAAA", "udp", Some(&workload()))),
        "request_query_type=aaaa\nrequest_protocol=udp\nsource_canonical_service=cart-app\nsource_canonical_revision=v2\n"
    );
    assert!(shown(&dns("A", "tcp", None)).ends_with("source_canonical_service=unknown\nsource_canonical_revision=unknown\n"));
}

#[test]
fn each_flag_has_its_own_word() {
    let words: std::collections::BTreeSet<_> = ResponseFlags::ALL.into_iter().map(ResponseFlags::as_str).collect();
    assert_eq!(words.len(), 8);
    for (index, flag) in ResponseFlags::ALL.into_iter().enumerate() {
        assert_eq!(flag as usize, index);
    }
}
