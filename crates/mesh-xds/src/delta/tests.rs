use super::*;
use crate::messages::{ADDRESS, AUTHORIZATION};

fn delta() -> Delta {
    Delta::new(&[(ADDRESS, Interest::Everything), (AUTHORIZATION, Interest::Everything)])
}

fn node() -> Node {
    Node { id: "ztunnel~1.1.1.1~z.istio-system~istio-system.svc.cluster.local".into(), ..Node::default() }
}

fn accepted(names: &[(&str, &str)]) -> Outcome {
    let accepted = names.iter().map(|(name, version)| (Arc::from(*name), Arc::from(*version))).collect();
    Outcome { accepted, ..Outcome::default() }
}

fn rejected(names: &[(&str, &str)]) -> Outcome {
    let rejected = names.iter().map(|(name, reason)| (Arc::from(*name), reason.to_string())).collect();
    Outcome { rejected, ..Outcome::default() }
}

fn removed(names: &[&str]) -> Outcome {
    Outcome { removed: names.iter().map(|name| Arc::from(*name)).collect(), ..Outcome::default() }
}

fn in_part(name: &str, version: &str) -> Outcome {
    let status = ResourceStatus { name: name.to_owned(), message: "one rule is left out".to_owned(), ..ResourceStatus::default() };
    Outcome { partial: vec![name.into()], statuses: vec![status], ..accepted(&[(name, version)]) }
}

fn claims(delta: &mut Delta, at: usize) -> Vec<(String, String)> {
    delta.open(&node())[at].initial_resource_versions.clone().into_iter().collect()
}

fn pair(name: &str, version: &str) -> (String, String) {
    (name.to_owned(), version.to_owned())
}

#[test]
fn a_stream_opens_with_one_empty_subscription_per_type() {
    let first = delta().open(&node());
    assert_eq!(first.iter().map(|request| request.type_url.as_str()).collect::<Vec<_>>(), [ADDRESS, AUTHORIZATION]);
    for request in first {
        let expected = DeltaDiscoveryRequest { node: Some(node()), type_url: request.type_url.clone(), ..Default::default() };
        assert_eq!(request, expected);
    }
}

#[test]
fn an_accepted_response_is_acknowledged_and_a_refused_one_says_why() {
    let mut delta = delta();
    let settled = delta.settle(ADDRESS, "n1", accepted(&[("a", "1")]));
    let expected = DeltaDiscoveryRequest { type_url: ADDRESS.into(), response_nonce: "n1".into(), ..Default::default() };
    assert_eq!(settled.reply, expected, "type and nonce only");

    let mut mixed = rejected(&[("b", "bad port"), ("c", "bad address")]);
    mixed.accepted = accepted(&[("d", "2")]).accepted;
    let error = delta.settle(ADDRESS, "n2", mixed).reply.error_detail.unwrap();
    assert_eq!((error.code, error.message.as_str()), (0, "b: bad port; c: bad address"));
    assert!(delta.holds(ADDRESS, "d"), "its neighbours are applied");

    let settled = delta.settle("type.googleapis.com/unknown", "n3", Outcome::default());
    assert_eq!((settled.reply.error_detail, settled.reply.response_nonce.as_str()), (None, "n3"));
}

// F-15
#[test]
fn the_message_of_a_nack_is_bounded() {
    let many: Vec<_> = (0..100_000).map(|i| (Arc::from(format!("name-{i}")), "reason".to_owned())).collect();
    let message = nack(&Outcome { rejected: many, ..Outcome::default() }).unwrap().message;
    assert!(message.len() < NACK_BYTES + 64 && message.ends_with(" more"), "{}", message.len());
}

// Z-216
#[test]
fn synced_after_the_first_acknowledged_response_of_each_type() {
    let mut delta = delta();
    let first = |settled: Settled| settled.first_ack;
    assert!(!first(delta.settle(ADDRESS, "1", rejected(&[("a", "bad")]))), "a NACKed one does not count");
    assert!(first(delta.settle(ADDRESS, "2", Outcome::default())), "an empty one does");
    assert!(!delta.is_synced());
    assert!(!first(delta.settle(ADDRESS, "3", rejected(&[("a", "bad")]))));
    assert!(first(delta.settle(AUTHORIZATION, "1", accepted(&[("p", "1")]))));
    assert!(delta.is_synced(), "and a later refusal does not take it back");
    assert!(!first(delta.settle(ADDRESS, "4", Outcome::default())), "first is first once");

    let on_demand = Delta::new(&[(ADDRESS, Interest::OnDemand)]);
    assert!(on_demand.is_synced(), "what is asked for by name is never complete");
}

// Z-218
#[test]
fn a_new_stream_echoes_the_versions_of_the_old_one() {
    let mut delta = delta();
    delta.settle(ADDRESS, "1", accepted(&[("a", "1"), ("b", "1"), ("c", "1")]));
    delta.settle(ADDRESS, "2", accepted(&[("b", "2")]));
    delta.settle(ADDRESS, "3", removed(&["c"]));
    delta.settle(AUTHORIZATION, "1", accepted(&[("p", "")]));
    assert_eq!(claims(&mut delta, 0), [pair("a", "1"), pair("b", "2")]);
    assert_eq!(claims(&mut delta, 1), [pair("p", "")]);

    // A refused one is named without a version, whether there was an accepted one before or not ...
    delta.settle(ADDRESS, "4", rejected(&[("b", "bad"), ("x", "bad")]));
    assert_eq!(claims(&mut delta, 0), [pair("a", "1"), pair("b", ""), pair("x", "")]);
    // ... until it is sound or gone.
    delta.settle(ADDRESS, "5", accepted(&[("b", "3")]));
    delta.settle(ADDRESS, "6", removed(&["x"]));
    assert_eq!(claims(&mut delta, 0), [pair("a", "1"), pair("b", "3")]);
}

// Z-220
#[test]
fn what_the_server_no_longer_lists_after_a_reconnect_goes() {
    let mut delta = delta();
    delta.settle(ADDRESS, "1", accepted(&[("a", "1"), ("b", "1")]));
    assert_eq!(claims(&mut delta, 0).len(), 2, "we name what we have, so the server can say what is gone");
    delta.settle(ADDRESS, "2", removed(&["a", "never seen"]));
    assert_eq!(claims(&mut delta, 0), [pair("b", "1")]);
}

// Z-217
#[test]
fn on_demand_asks_for_each_name_once_until_it_is_answered() {
    let mut delta = Delta::new(&[(ADDRESS, Interest::OnDemand), (AUTHORIZATION, Interest::Everything)]);
    let first = &delta.open(&node())[0];
    assert_eq!((first.resource_names_subscribe.as_slice(), first.resource_names_unsubscribe.as_slice()), (&["*".to_owned()][..], &["*".to_owned()][..]));

    let name: Arc<str> = "/10.0.0.1".into();
    let ask = delta.ask(ADDRESS, &name).unwrap();
    assert_eq!(ask, DeltaDiscoveryRequest { type_url: ADDRESS.into(), resource_names_subscribe: vec!["/10.0.0.1".into()], ..Default::default() });
    assert_eq!(delta.ask(ADDRESS, &name), None);
    assert_eq!(claims(&mut delta, 0), [pair("/10.0.0.1", "")], "an open question is asked again on a new stream");

    // The answer comes under another name and is known by its alias.
    let mut outcome = accepted(&[("uid", "1")]);
    outcome.aliases = vec![name.clone()];
    assert_eq!(delta.settle(ADDRESS, "1", outcome).answered, std::slice::from_ref(&name));
    assert_eq!((delta.pending(), claims(&mut delta, 0)), (0, vec![pair("uid", "1")]));

    // "There is none" and "it is bad" are answers too.
    for outcome in [removed(&["/10.0.0.1"]), rejected(&[("/10.0.0.1", "bad")])] {
        assert!(delta.ask(ADDRESS, &name).is_some());
        assert_eq!(delta.settle(ADDRESS, "2", outcome).answered, std::slice::from_ref(&name));
    }
    assert!(delta.ask("unknown type", &name).is_none());
}

#[test]
fn what_is_in_force_in_part_is_held_and_told_and_told_again_to_the_next_controller() {
    let mut delta = delta();
    let settled = delta.settle(ADDRESS, "n1", in_part("a", "1"));
    let error = settled.reply.error_detail.unwrap();
    assert_eq!(error.message, "", "nothing is refused");
    let told = ResourceStatus::decode(&*error.details[0].value).unwrap();
    assert_eq!((error.details[0].type_url.as_str(), told.message.as_str()), (RESOURCE_STATUS, "one rule is left out"));
    assert!(delta.holds(ADDRESS, "a"));
    assert_eq!(claims(&mut delta, 0), [pair("a", "")], "without a version it is sent again");
    delta.settle(ADDRESS, "n2", accepted(&[("a", "2")]));
    assert_eq!(claims(&mut delta, 0), [pair("a", "2")]);
}

#[test]
fn heard_is_a_type_of_which_anything_came() {
    let mut delta = delta();
    delta.settle(ADDRESS, "n1", rejected(&[("a", "bad")]));
    assert!(!delta.is_heard());
    delta.settle(AUTHORIZATION, "n2", Outcome::default());
    assert!(delta.is_heard() && !delta.is_synced());
}
