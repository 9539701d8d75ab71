use super::*;
use crate::translate::tests::{events, pod};

fn cluster(yaml: &str) -> Cluster {
    let mut cluster = Cluster::new("default", "istio-system", "cluster.local");
    for event in events(yaml) {
        cluster.apply(event);
    }
    cluster
}

#[test]
fn the_same_object_again_is_no_change() {
    let mut cluster = cluster("");
    let event = events(&pod("shop", "a", "10.0.0.1", "app: a")).remove(0);
    assert_eq!(cluster.apply(event.clone()).len(), 1);
    assert!(cluster.apply(event).is_empty());
    assert!(cluster.apply(Event::Deleted(ObjectKey::new(Kind::Pod, "shop", "missing"))).is_empty());
}

#[test]
fn status_and_managed_fields_that_nobody_reads_are_no_change() {
    let mut cluster = cluster(&pod("shop", "a", "10.0.0.1", "app: a"));
    let noisy = pod("shop", "a", "10.0.0.1", "app: a")
        .replace("phase: Running,", "phase: Running, message: hello, startTime: \"2026-01-01T00:00:00Z\", conditions_: x,")
        .replace("uid: uid-a,", "uid: uid-a, resourceVersion: \"7\", annotations: {kubectl.kubernetes.io/last-applied-configuration: x},");
    assert!(cluster.apply(events(&noisy).remove(0)).is_empty());
}

#[test]
fn selection_asks_for_all_labels_and_one_namespace() {
    let cluster = cluster(&[pod("shop", "a", "10.0.0.1", "app: a, x: y"), pod("shop", "b", "10.0.0.2", "app: a"), pod("other", "c", "10.0.0.3", "app: a, x: y")].concat());
    let names = |namespace: Option<&str>, selector: &[(&str, &str)]| {
        let selector: Labels = selector.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let found = cluster.selected(Kind::Pod, namespace.map(Arc::from).as_ref(), &selector);
        found.iter().map(|key| key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(Some("shop"), &[("app", "a")]), ["shop/a", "shop/b"]);
    assert_eq!(names(Some("shop"), &[("app", "a"), ("x", "y")]), ["shop/a"]);
    assert_eq!(names(None, &[("x", "y")]), ["other/c", "shop/a"]);
    assert_eq!(names(Some("shop"), &[("app", "b")]), Vec::<String>::new());
}

#[test]
fn pods_of_an_account() {
    let cluster = cluster(&[pod("shop", "a", "10.0.0.1", ""), pod("other", "a", "10.0.0.3", "")].concat());
    let names: Vec<String> = cluster.pods_of_account(&NsName::new("shop", "a-sa")).map(|pod| pod.meta.ns_name().to_string()).collect();
    assert_eq!(names, ["shop/a"]);
}
