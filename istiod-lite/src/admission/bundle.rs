//! The API server verifies our webhook with the roots that stand in its configuration: the leader keeps them there.
//! Everything else of the configuration is the chart's.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

/// A configuration that could not be patched is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Runs until it is dropped.
pub async fn keep_bundle(client: Client, name: String, mut bundle: watch::Receiver<String>) {
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let only_ours = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = pin!(watcher(configurations.clone(), only_ours).default_backoff());
    let mut current: Option<ValidatingWebhookConfiguration> = None;
    let mut try_again = false;
    loop {
        tokio::select! {
            Some(event) = events.next() => match event {
                Ok(Event::InitApply(seen) | Event::Apply(seen)) => current = Some(seen),
                Ok(Event::Init | Event::Delete(_)) => current = None,
                Ok(Event::InitDone) => {}
                Err(error) => tracing::debug!(target: "admission", %error, "the webhook's configuration cannot be watched at present"),
            },
            Ok(()) = bundle.changed() => {}
            _ = tokio::time::sleep(TRY_AGAIN), if try_again => {}
        }
        let steps = current.as_ref().map(|current| steps(current, bundle.borrow().as_bytes())).unwrap_or_default();
        try_again = match steps.is_empty() {
            true => false,
            false => !patch(&configurations, &name, steps).await,
        };
    }
}

async fn patch(configurations: &Api<ValidatingWebhookConfiguration>, name: &str, steps: Vec<Value>) -> bool {
    let Ok(steps) = serde_json::from_value(Value::Array(steps)) else { return true };
    match configurations.patch(name, &PatchParams::default(), &Patch::<()>::Json(steps)).await {
        Ok(_) => {
            tracing::info!(target: "admission", configuration = name, "the API server verifies the webhook with our roots");
            true
        }
        Err(error) => {
            tracing::warn!(target: "admission", configuration = name, %error, "our roots cannot be written into the webhook's configuration; objects are not validated before they are stored");
            false
        }
    }
}

/// What makes every webhook of the configuration trust the bundle. The name is tested, so that a list that changed
/// meanwhile is not patched at the wrong place. Pure.
fn steps(configuration: &ValidatingWebhookConfiguration, bundle: &[u8]) -> Vec<Value> {
    let webhooks = configuration.webhooks.iter().flatten().enumerate();
    let stale = webhooks.filter(|(_, webhook)| webhook.client_config.ca_bundle.as_ref().is_none_or(|held| held.0 != bundle));
    let step = |(index, name): (usize, &str)| {
        let at = format!("/webhooks/{index}");
        [
            json!({ "op": "test", "path": format!("{at}/name"), "value": name }),
            json!({ "op": "add", "path": format!("{at}/clientConfig/caBundle"), "value": ByteString(bundle.to_vec()) }),
        ]
    };
    stale.flat_map(|(index, webhook)| step((index, &webhook.name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::api_server::ApiServer;

    const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

    fn configuration(bundles: &[Option<&str>]) -> Value {
        let webhook = |(index, bundle): (usize, &Option<&str>)| {
            let bundle = bundle.map(|bundle| json!(ByteString(bundle.as_bytes().to_vec()))).unwrap_or_default();
            json!({ "name": format!("w{index}"), "clientConfig": { "caBundle": bundle }, "admissionReviewVersions": ["v1"], "sideEffects": "None" })
        };
        json!({ "metadata": { "name": "istio-validator" }, "webhooks": bundles.iter().enumerate().map(webhook).collect::<Vec<_>>() })
    }

    #[test]
    fn only_what_is_stale_is_patched() {
        let read = |bundles: &[Option<&str>]| steps(&serde_json::from_value(configuration(bundles)).unwrap(), b"roots");
        assert!(read(&[Some("roots"), Some("roots")]).is_empty());
        let steps = read(&[Some("roots"), None, Some("old")]);
        let paths: Vec<&str> = steps.iter().map(|step| step["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["/webhooks/1/name", "/webhooks/1/clientConfig/caBundle", "/webhooks/2/name", "/webhooks/2/clientConfig/caBundle"]);
        assert_eq!(steps[1]["value"], "cm9vdHM=");
    }

    #[tokio::test]
    async fn the_configuration_holds_our_roots_whatever_is_applied_over_it() {
        let server = ApiServer::new();
        let (bundles, bundle) = watch::channel("roots".to_owned());
        tokio::spawn(keep_bundle(server.client(), "istio-validator".into(), bundle));
        let holds = |server: &ApiServer, text: &str| {
            let held = server.object(CONFIGURATIONS, "", "istio-validator").unwrap();
            held["webhooks"][0]["clientConfig"]["caBundle"] == json!(ByteString(text.as_bytes().to_vec()))
        };
        server.put(CONFIGURATIONS, configuration(&[None]));
        server.until("ours", |server| holds(server, "roots")).await;
        server.put(CONFIGURATIONS, configuration(&[Some("of a chart")]));
        server.until("ours again", |server| holds(server, "roots")).await;
        bundles.send_replace("new".into());
        server.until("new roots", |server| holds(server, "new")).await;
    }
}
