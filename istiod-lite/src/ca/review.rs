//! Tokens of a Kubernetes cluster, checked by its API server (spec/controlplane.md 3.3): one review for each token, kept
//! for moments, so that a node daemon that asks for two hundred certificates at once costs one.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use mesh_identity::token::{ObjectRef, Subject, claimed_end};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::authn::Unknown;

/// API servers keep their own verdict on a token for ten seconds; as long again is as much as we add to the life of a
/// token whose account was deleted. A pod that was deleted ends at once: it is looked up at every call.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Ten seconds of a thousand nodes that start together, at two kilobytes each.
const KEPT_MAX: usize = 1024;
/// Reviews at a time: strangers with junk for tokens must not become a storm on the API server.
const REVIEWS_AT_A_TIME: usize = 16;
/// An API server answers in milliseconds. The caller tries again anyway.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// Kubernetes' tokens are one to two kilobytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
/// The group of every service account.
const ACCOUNTS: &str = "system:serviceaccounts";

pub struct Reviews {
    api: Api<TokenReview>,
    audience: String,
    kept: Mutex<HashMap<Box<str>, Kept>>,
    permits: Semaphore,
}

struct Kept {
    subject: Subject,
    until: Instant,
}

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews").field("audience", &self.audience).finish_non_exhaustive()
    }
}

impl Reviews {
    pub fn new(client: Client, audience: &str) -> Reviews {
        Reviews { api: Api::all(client), audience: audience.to_owned(), kept: Mutex::default(), permits: Semaphore::new(REVIEWS_AT_A_TIME) }
    }

    /// Whom a token speaks for, and until when.
    pub async fn subject(&self, token: &str, now: SystemTime) -> Result<(Subject, SystemTime), Unknown> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Unknown(format!("the token is longer than {TOKEN_BYTES_MAX} bytes")));
        }
        // Believed only when the API server believes the token as a whole.
        let end = claimed_end(token).ok_or_else(|| Unknown("the token names no end: only tokens that are bound to a pod are taken".into()))?;
        if end <= now {
            return Err(Unknown("the token has expired".into()));
        }
        if let Some(kept) = self.kept.lock().get(token).filter(|kept| kept.until > Instant::now()) {
            return Ok((kept.subject.clone(), end));
        }
        let status = self.review(token).await?;
        let subject = subject_of(&status, &self.audience)?;
        self.keep(token, &subject);
        Ok((subject, end))
    }

    async fn review(&self, token: &str) -> Result<TokenReviewStatus, Unknown> {
        let _permit = self.permits.acquire().await.map_err(|_| Unknown("stopping".into()))?;
        let spec = TokenReviewSpec { audiences: Some(vec![self.audience.clone()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        match tokio::time::timeout(REVIEW_TIMEOUT, self.api.create(&PostParams::default(), &review)).await {
            Ok(Ok(answer)) => answer.status.ok_or_else(|| Unknown("the API server gave no verdict on the token".into())),
            Ok(Err(error)) => Err(Unknown(format!("the API server cannot be asked about the token: {error}"))),
            Err(_) => Err(Unknown(format!("the API server said nothing about the token within {REVIEW_TIMEOUT:?}"))),
        }
    }

    fn keep(&self, token: &str, subject: &Subject) {
        let now = Instant::now();
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, kept| kept.until > now);
        }
        if kept.len() < KEPT_MAX {
            kept.insert(token.into(), Kept { subject: subject.clone(), until: now + KEPT_FOR });
        }
    }
}

/// What the API server's verdict says of the caller. Pure.
pub fn subject_of(status: &TokenReviewStatus, audience: &str) -> Result<Subject, Unknown> {
    let no = |why: &str| Err(Unknown(why.to_owned()));
    if status.authenticated != Some(true) {
        let why = status.error.as_deref().unwrap_or("no reason given");
        return Err(Unknown(format!("the API server does not know the token: {why}")));
    }
    // An API server that does not know about audiences answers none; its tokens are good for itself, not for us.
    if !status.audiences.iter().flatten().any(|known| known == audience) {
        return Err(Unknown(format!("the token is not for audience {audience:?}")));
    }
    let user = status.user.clone().unwrap_or_default();
    if !user.groups.iter().flatten().any(|group| group == ACCOUNTS) {
        return no("the token is not of a service account");
    }
    let username = user.username.unwrap_or_default();
    let parts: Vec<&str> = username.split(':').collect();
    let &["system", "serviceaccount", namespace, account] = parts.as_slice() else {
        return no("the token's user is not system:serviceaccount:NAMESPACE:NAME");
    };
    let extra: BTreeMap<String, Vec<String>> = user.extra.unwrap_or_default();
    // Two values for one fact are none.
    let only = |key: &str| extra.get(key).filter(|values| values.len() == 1).map(|values| values[0].clone());
    let object = |name: &str, uid: &str| Some(ObjectRef { name: only(name)?, uid: only(uid).unwrap_or_default() });
    Ok(Subject {
        namespace: namespace.to_owned(),
        service_account: ObjectRef { name: account.to_owned(), uid: user.uid.unwrap_or_default() },
        pod: object(POD_NAME, POD_UID),
        node: object(NODE_NAME, NODE_UID),
    })
}

#[cfg(test)]
mod tests;
