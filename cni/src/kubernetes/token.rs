//! The token by which the plugin asks the API server while the agent is away. It is of an account of its own, which may look
//! at pods and namespaces and nothing else, and bound to no pod: the agent's own token ends with the agent's pod, just
//! when the plugin needs one.

use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use mesh_runtime::Backoff;
use tokio::sync::watch;
use tokio::time::sleep;

/// What is asked for: an agent that is away for longer needs somebody to look after it. API servers may grant less.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// The first and the longest wait before the API server is asked again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A token that is granted for less than this is asked for no more often.
const RENEW_EVERY_MIN: Duration = Duration::from_secs(60);

/// Has a valid token there, for ever: a new one is asked for in the middle of the life of the last.
pub async fn keep(client: Client, namespace: String, account: String, tell: watch::Sender<Option<String>>) {
    let accounts: Api<ServiceAccount> = Api::namespaced(client, &namespace);
    let mut retry = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let wait = match ask(&accounts, &account).await {
            Ok((token, life)) => {
                retry.reset();
                tell.send_replace(Some(token));
                renew_after(life)
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(error, account, "no token for the plugin, trying again; while this agent is away, no pod starts on this node without one");
                retry.next(&mut rand::rng())
            }
        };
        sleep(wait).await;
    }
}

async fn ask(accounts: &Api<ServiceAccount>, account: &str) -> anyhow::Result<(String, Duration)> {
    let spec = TokenRequestSpec { audiences: Vec::new(), bound_object_ref: None, expiration_seconds: Some(LIFE.as_secs().cast_signed()) };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer: TokenRequest = accounts.create_subresource("token", account, &PostParams::default(), &request).await?;
    let status = answer.status.context("the API server answered without a token")?;
    let life = status.expiration_timestamp.0.duration_since(Timestamp::now());
    Ok((status.token, life.try_into().unwrap_or_default()))
}

fn renew_after(life: Duration) -> Duration {
    (life / 2).max(RENEW_EVERY_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_in_the_middle_of_its_life() {
        for (life, expected) in [(24 * 3600, 12 * 3600), (3600, 1800), (60, 60), (0, 60)] {
            assert_eq!(renew_after(Duration::from_secs(life)), Duration::from_secs(expected));
        }
    }
}
