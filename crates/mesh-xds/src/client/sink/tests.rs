use std::sync::Arc;

use mesh_runtime::Ready;
use parking_lot::Mutex;
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::messages::ADDRESS;
use crate::messages::discovery::Resource;
use crate::messages::waypoint::{HTTP_ROUTE, ResourceState, SERVICE_PORT, ServicePort};
use crate::testing::{Script, client, config, resource, scripted};
use crate::world::world;

/// Says what it was given, line by line. Refuses port 0, and has port 1 in part.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<String>>>);

impl Written {
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Sink for Written {
    fn take(&mut self, type_url: &str, name: &str, content: Option<&[u8]>) -> Result<(), Box<ResourceStatus>> {
        let kind = type_url.rsplit('.').next().unwrap();
        let port = content.map(|content| ServicePort::decode(content).unwrap().port);
        self.0.lock().push(format!("{kind} {name} {port:?}"));
        let state = match port {
            Some(0) => ResourceState::Rejected,
            Some(1) => ResourceState::Partial,
            _ => return Ok(()),
        };
        let status = ResourceStatus { type_url: type_url.into(), name: name.into(), reason: "Odd".into(), message: "a port".into(), ..Default::default() };
        Err(Box::new(ResourceStatus { state: state as i32, ..status }))
    }

    fn settled(&mut self) {
        self.0.lock().push("settled".into());
    }
}

fn port(name: &str, port: u32) -> Resource {
    resource(name, ServicePort { port, ..ServicePort::default() })
}

/// What the next answer tells of single resources.
async fn told(script: &mut Script) -> Vec<(String, ResourceState)> {
    let error = script.hear().await.error_detail;
    let details = error.map(|error| error.details).unwrap_or_default();
    details.iter().map(|one| ResourceStatus::decode(&*one.value).unwrap()).map(|one| (one.name.clone(), one.state())).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_not_of_the_workload_api_goes_to_the_sink_and_bad_ones_are_told_of_alone() {
    let (network, mut streams) = scripted();
    let (writer, _watched) = world();
    let (written, ready) = (Written::default(), Ready::new());
    let client = client(&network, config(false), writer)
        .instead_of_policies(&[HTTP_ROUTE, SERVICE_PORT], Box::new(written.clone()))
        .blocking(ready.block("settings"));
    tokio::spawn(client.run(CancellationToken::new()));
    let mut script = streams.recv().await.unwrap();
    for expected in [ADDRESS, HTTP_ROUTE, SERVICE_PORT] {
        assert_eq!(script.hear().await.type_url, expected);
    }

    assert_eq!(script.tell(ADDRESS, vec![], &[]).await, "");
    assert_eq!(script.tell(HTTP_ROUTE, vec![], &[]).await, "");
    assert!(!ready.is_ready(), "a type is still to be heard of");
    assert_eq!(written.taken(), [""; 0], "addresses are none of its business, and of one type nothing is known yet");

    script.say(SERVICE_PORT, vec![port("a", 80), port("b", 0), port("c", 1)], &[]).await;
    assert_eq!(told(&mut script).await, [("b".to_owned(), ResourceState::Rejected), ("c".to_owned(), ResourceState::Partial)]);
    assert_eq!(
        written.taken(),
        ["ServicePort a Some(80)", "ServicePort b Some(0)", "ServicePort c Some(1)", "settled"],
        "readers see all of a response at once"
    );
    ready.until_ready().await;

    script.say(SERVICE_PORT, vec![port("b", 80)], &["a"]).await;
    assert_eq!(told(&mut script).await, []);
    assert_eq!(written.taken(), ["ServicePort b Some(80)", "ServicePort a None", "settled"]);

    drop(script);
    let mut script = streams.recv().await.unwrap();
    script.hear().await;
    script.hear().await;
    let again: Vec<_> = script.hear().await.initial_resource_versions.into_iter().collect();
    assert_eq!(again, [("b".to_owned(), "1".to_owned()), ("c".to_owned(), String::new())], "c is told of again");

    // What has changed while there was no stream is seen at once, in whatever order it is told.
    for (type_url, removed) in [(SERVICE_PORT, &["b"][..]), (HTTP_ROUTE, &[])] {
        script.say(type_url, vec![], removed).await;
        assert_eq!(told(&mut script).await, []);
    }
    assert_eq!(written.taken(), ["ServicePort b None"]);
    script.say(ADDRESS, vec![], &[]).await;
    assert_eq!(told(&mut script).await, []);
    assert_eq!(written.taken(), ["settled"]);
}
