//! What is written into objects, and what is not.

use mesh_runtime::watched;
use serde_json::Value;

use super::*;
use crate::objects::{Kind, ObjectKey};
use crate::status::plan::Entry;
use crate::status::shown::shown;
use crate::testing::api_server::{ApiServer, collection};

fn condition(status: &str, message: &str) -> Condition {
    Condition { kind: "ZtunnelAccepted".into(), status: status.into(), reason: "Accepted".into(), message: message.into(), observed_generation: 1 }
}

fn page(entries: &[(&str, Condition)]) -> Page {
    let entry = |(name, condition): &(&str, Condition)| Entry {
        kind: "AuthorizationPolicy".into(),
        namespace: "shop".into(),
        name: (*name).into(),
        conditions: vec![condition.clone()],
        ..Entry::default()
    };
    Page { is_whole: true, objects: entries.iter().map(entry).collect(), ..Page::default() }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::AuthorizationPolicy, "shop", name)
}

fn of(object: &Value) -> Arc<crate::status::shown::Shown> {
    shown(Kind::AuthorizationPolicy, &object.to_string()).into()
}

fn policy(name: &str, conditions: Value) -> Value {
    json!({ "kind": "AuthorizationPolicy", "apiVersion": "security.istio.io/v1", "metadata": { "namespace": "shop", "name": name }, "status": { "conditions": conditions } })
}

fn written(condition: &Condition, since: &str) -> Value {
    json!({ "type": condition.kind, "status": condition.status, "reason": condition.reason, "message": condition.message, "observedGeneration": condition.observed_generation, "lastTransitionTime": since })
}

#[test]
fn only_what_differs_is_due() {
    let good = condition("True", "in force");
    let since = "2026-01-01T00:00:00Z";
    let foreign = json!({ "type": "Other", "status": "True", "reason": "x", "message": "", "lastTransitionTime": since });
    // what the object shows, what there is to say, the conditions that are written
    let table = [
        (json!([]), Some(good.clone()), Some(json!([written(&good, "now")]))),
        (json!([written(&good, since)]), Some(good.clone()), None),
        (json!([foreign.clone(), written(&good, since)]), Some(good.clone()), None),
        (json!([written(&good, since)]), Some(condition("True", "otherwise")), Some(json!([written(&condition("True", "otherwise"), since)]))),
        (json!([written(&good, since)]), Some(condition("False", "not")), Some(json!([written(&condition("False", "not"), "now")]))),
        (json!([written(&good, since)]), None, Some(json!([]))),
        (json!([foreign]), None, None),
    ];
    for (shows, says, expected) in table {
        let shown = of(&policy("p", shows.clone()));
        let statuses = if shown.is_empty() { Statuses::default() } else { Statuses::default().insert(key("p"), shown) };
        let entries: Vec<(&str, Condition)> = says.clone().map(|condition| ("p", condition)).into_iter().collect();
        let found = due(&page(&entries), &statuses, &mut Written::default(), "now");
        assert_eq!(found.first().map(|due| due.status["conditions"].clone()), expected, "{shows} {says:?}");
        let mut unread = page(&entries);
        unread.is_whole = false;
        assert!(due(&unread, &statuses, &mut Written::default(), "now").is_empty(), "an object that was not read yet looks as if there were nothing to say");
    }
}

// issue 4: a field that is not honoured is reported in the object's status
#[test]
fn remarks_are_a_condition_beside_others() {
    let mut page = page(&[("p", condition("True", "in force")), ("q", condition("True", "in force"))]);
    page.objects[0].notes = vec!["spec.a is not honoured".into(), "ü".repeat(5000)];
    page.objects[0].generation = 7;
    page.objects[1].conditions[0].kind = "istio.io/Accepted".into();
    page.objects[1].notes = vec!["what cannot be read is said first".into()];
    let found = due(&page, &Statuses::default(), &mut Written::default(), "now");
    let conditions = found[0].status["conditions"].as_array().unwrap();
    let types: Vec<_> = conditions.iter().map(|condition| (condition["type"].as_str().unwrap(), condition["status"].as_str().unwrap())).collect();
    assert_eq!(types, [("ZtunnelAccepted", "True"), ("istio.io/Accepted", "True")]);
    let said = conditions[1]["message"].as_str().unwrap();
    assert!(said.starts_with("spec.a is not honoured; ü") && said.len() <= 4096, "{}", said.len());
    assert_eq!(conditions[1]["observedGeneration"], 7);
    assert_eq!(found[1].status["conditions"].as_array().unwrap().len(), 1);
    // shown as it was written, it is not due again
    let shown = of(&policy("p", found[0].status["conditions"].clone()));
    let again = due(&page, &Statuses::default().insert(key("p"), shown), &mut Written::default(), "now");
    assert_eq!(again.iter().map(|due| &*due.key.name.name).collect::<Vec<_>>(), ["q"]);
}

// pitfall 20: no loop between two writers
#[test]
fn what_was_written_is_not_written_again_until_it_is_seen_to_differ() {
    let mut notes = Written::default();
    let page = page(&[("p", condition("True", "a"))]);
    let mut turn = |statuses: &Statuses| {
        let found = due(&page, statuses, &mut notes, "now");
        let count = found.len();
        found.into_iter().for_each(|due| notes.note(due));
        count
    };
    let nothing = Statuses::default();
    let shows = |text: &str| Statuses::default().insert(key("p"), of(&policy("p", json!([written(&condition("True", text), "t")]))));
    let other = shows("of another");
    assert_eq!((turn(&nothing), turn(&nothing)), (1, 0));
    assert_eq!((turn(&shows("a")), turn(&shows("a"))), (0, 0));
    assert_eq!((turn(&other), turn(&other)), (1, 0));
}

#[tokio::test]
async fn a_status_goes_to_the_version_that_is_served() {
    let server = ApiServer::new();
    server.define_in(Kind::AuthorizationPolicy, "v1beta1");
    let policies = "/apis/security.istio.io/v1beta1/authorizationpolicies";
    server.put(policies, policy("p", json!([])));
    let (_pages, shown_pages) = watch::channel(Arc::new(page(&[("p", condition("True", "in force"))])));
    let (_publisher, statuses) = watched(Statuses::default());
    let client = server.client();
    tokio::spawn(async move { write(client, "istiod-1", &field_manager("canary"), shown_pages, statuses).await });
    server.until("p is told", |server| server.object(policies, "shop", "p").unwrap()["status"]["conditions"][0]["message"] == "in force").await;
    assert_eq!(server.asked("PATCH", "fieldManager=istiod-lite-status-canary"), 2, "one of them in the version that is not served");
}

// two controllers that think otherwise of one object, each of which sees what the other wrote
#[test]
fn two_writers_come_to_an_end() {
    let pages = [page(&[("p", condition("True", "of one"))]), page(&[("p", condition("True", "of the other"))])];
    let mut notes = [Written::default(), Written::default()];
    let (mut statuses, mut writes) = (Statuses::default(), 0);
    for turn in 0..100 {
        let who = turn % 2;
        for due in due(&pages[who], &statuses, &mut notes[who], "now") {
            statuses.insert_mut(due.key.clone(), of(&policy("p", due.status["conditions"].clone())));
            notes[who].note(due);
            writes += 1;
        }
    }
    assert!((2..=8).contains(&writes), "{writes}");
    // something new is said again
    assert_eq!(due(&page(&[("p", condition("False", "new"))]), &statuses, &mut notes[0], "now").len(), 1);
}

#[test]
fn what_another_revision_wrote_into_its_objects_stays() {
    let shows = |revision: &str| {
        let mut object = policy("p", json!([written(&condition("True", "a"), "t")]));
        object["metadata"]["labels"] = json!({ "istio.io/rev": revision });
        Statuses::default().insert(key("p"), of(&object))
    };
    let nothing = Page { revisions: ["canary".into(), "tag".into()].into(), ..page(&[]) };
    for (revision, count) in [("canary", 1), ("tag", 1), ("other", 0), ("default", 0)] {
        assert_eq!(due(&nothing, &shows(revision), &mut Written::default(), "now").len(), count, "{revision}");
    }
}

#[tokio::test]
async fn statuses_are_kept_as_they_should_be() {
    let policies = collection(Kind::AuthorizationPolicy);
    let server = ApiServer::new();
    server.define(Kind::AuthorizationPolicy);
    for name in ["p", "q"] {
        server.put(&policies, policy(name, json!([])));
    }
    let (pages, shown_pages) = watch::channel(Arc::new(page(&[("p", condition("True", "in force")), ("gone", condition("True", "in force"))])));
    let (mut publisher, statuses) = watched(Statuses::default());
    let client = server.client();
    tokio::spawn(async move { write(client, "istiod-1", &field_manager("default"), shown_pages, statuses).await });
    let message = |server: &ApiServer, name: &str| server.object(&policies, "shop", name).unwrap()["status"]["conditions"][0]["message"].clone();
    server.until("p is told", |server| message(server, "p") == "in force").await;
    publisher.update(|all| all.insert_mut(key("p"), of(&server.object(&policies, "shop", "p").unwrap())));

    pages.send_replace(Arc::new(page(&[("q", condition("False", "not"))])));
    server.until("q is told, and p's is taken back", |server| message(server, "q") == "not" && message(server, "p").is_null()).await;
    let events = |server: &ApiServer| server.asked("POST", "/apis/events.k8s.io/v1/namespaces/shop/events");
    server.until("what says no is an event", |server| events(server) == 1).await;
    let writes = server.asked("PATCH", "/status");
    assert_eq!(writes, 5, "p, the one that is gone in each version, q, and p again");
    publisher.update(|all| assert!(all.remove_mut(&key("p"))));
    publisher.update(|all| all.insert_mut(key("q"), of(&server.object(&policies, "shop", "q").unwrap())));

    server.forbid("/apis/security.istio.io");
    pages.send_replace(Arc::new(page(&[("q", condition("False", "not yet"))])));
    server.until("it is tried", |server| server.asked("PATCH", "/status") == writes + 1).await;
    server.allow("/apis/security.istio.io");
    server.until("what failed is tried again", |server| message(server, "q") == "not yet").await;
}
