//! Tokens of a Kubernetes cluster, checked by its API server (spec/controlplane.md 3.3): one review for each token, kept
//! for moments, so that a node daemon that asks for two hundred certificates at once costs one.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::core::Request;
use kube::{Api, Client};
use mesh_identity::token::{ObjectRef, Subject, claimed_end};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::authn::Unknown;

/// API servers keep their own verdict on a token for ten seconds; as long again is as much as we add to the life of a
/// token whose account was deleted. A pod that was deleted ends at once: it is looked up at every call.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Ten seconds of a thousand nodes that start together, at two kilobytes each.
const KEPT_MAX: usize = 1024;
/// Reviews at a time: strangers with junk for tokens must not become a storm on the API server.
const REVIEWS_AT_A_TIME: usize = 16;
/// Callers that wait for a verdict. Nobody is authenticated yet, so this bounds what strangers can make us hold: ten nodes'
/// two hundred certificates at once, and no more than 32 MiB of tokens. Whoever is sent away tries again.
const WAITING_MAX: usize = 2048;
/// For the wait until others are reviewed and the review itself. An API server answers in milliseconds. The caller tries
/// again anyway.
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
    reviewer: Arc<Reviewer>,
    /// A place for each caller that waits.
    places: Semaphore,
}

struct Reviewer {
    client: Client,
    audience: String,
    permits: Semaphore,
    verdicts: Mutex<Verdicts>,
}

#[derive(Default)]
struct Verdicts {
    kept: HashMap<Arc<str>, Kept>,
    /// Tokens whose review is on its way.
    asked: HashMap<Arc<str>, watch::Receiver<Option<Verdict>>>,
}

struct Kept {
    subject: Subject,
    until: Instant,
}

type Verdict = Result<Subject, Unknown>;

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviews").field("audience", &self.reviewer.audience).finish_non_exhaustive()
    }
}

impl Reviews {
    pub fn new(client: Client, audience: &str) -> Reviews {
        let reviewer = Reviewer { client, audience: audience.to_owned(), permits: Semaphore::new(REVIEWS_AT_A_TIME), verdicts: Mutex::default() };
        Reviews { reviewer: Arc::new(reviewer), places: Semaphore::new(WAITING_MAX) }
    }

    /// Whom a token speaks for, and until when.
    pub async fn subject(&self, token: &str, now: SystemTime) -> Result<(Subject, SystemTime), Unknown> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Unknown(format!("the token is longer than {TOKEN_BYTES_MAX} bytes")));
        }
        // Believed only when the API server believes the token as a whole. A machine's token is bound to no pod, but ends.
        let end = claimed_end(token).ok_or_else(|| Unknown("the token names no end: only tokens that end are taken".into()))?;
        if end <= now {
            return Err(Unknown("the token has expired".into()));
        }
        let mut asked = match self.known_or_asked(token)? {
            Ok(subject) => return Ok((subject, end)),
            Err(asked) => asked,
        };
        let _place = self.places.try_acquire().map_err(|_| Unknown(format!("{WAITING_MAX} callers wait for a review of their token already")))?;
        let verdict = asked.wait_for(Option::is_some).await.map_err(|_| Unknown("stopping".into()))?;
        let subject = verdict.clone().expect("waited for")?;
        Ok((subject, end))
    }

    /// The subject of a token that was reviewed a moment ago, or the review on its way: of any number of callers that show
    /// one token one asks. It goes on when its callers go, and ends within its time.
    fn known_or_asked(&self, token: &str) -> Result<Result<Subject, watch::Receiver<Option<Verdict>>>, Unknown> {
        let mut verdicts = self.reviewer.verdicts.lock();
        if let Some(kept) = verdicts.kept.get(token).filter(|kept| kept.until > Instant::now()) {
            return Ok(Ok(kept.subject.clone()));
        }
        if let Some(asked) = verdicts.asked.get(token) {
            return Ok(Err(asked.clone()));
        }
        // Reviews outlive callers that go, so they are counted by themselves.
        if verdicts.asked.len() >= WAITING_MAX {
            return Err(Unknown(format!("{WAITING_MAX} tokens wait for their review already")));
        }
        let (tell, asked) = watch::channel(None);
        let token: Arc<str> = token.into();
        verdicts.asked.insert(token.clone(), asked.clone());
        let reviewer = self.reviewer.clone();
        tokio::spawn(async move {
            let verdict = reviewer.verdict(&token).await;
            reviewer.verdicts.lock().settle(&token, &verdict);
            // Nobody may be left who wants to know.
            let _ = tell.send(Some(verdict));
        });
        Ok(Err(asked))
    }
}

impl Reviewer {
    async fn verdict(&self, token: &str) -> Verdict {
        let review = async {
            let _permit = self.permits.acquire().await.map_err(|_| Unknown("stopping".into()))?;
            self.review(token).await
        };
        let silent = |_| Err(Unknown(format!("the API server said nothing about the token within {REVIEW_TIMEOUT:?}")));
        let status = tokio::time::timeout(REVIEW_TIMEOUT, review).await.unwrap_or_else(silent)?;
        subject_of(&status, &self.audience)
    }

    /// The answer is read here and not by the client, which logs whole what it cannot read: it repeats the token.
    async fn review(&self, token: &str) -> Result<TokenReviewStatus, Unknown> {
        #[derive(Deserialize)]
        struct Answer {
            status: Option<TokenReviewStatus>,
        }
        let cannot = |why: &dyn fmt::Display| Unknown(format!("the API server cannot be asked about the token: {why}"));
        let spec = TokenReviewSpec { audiences: Some(vec![self.audience.clone()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let body = serde_json::to_vec(&review).map_err(|error| cannot(&error))?;
        let url = Api::<TokenReview>::all(self.client.clone()).resource_url().to_owned();
        let mut request = Request::new(url).create(&PostParams::default(), body).map_err(|error| cannot(&error))?;
        request.extensions_mut().insert("create");
        let text = self.client.request_text(request).await.map_err(|error| cannot(&error))?;
        // What is wrong is said without its words.
        let unread = |error: serde_json::Error| cannot(&format!("its answer cannot be read (line {}, column {})", error.line(), error.column()));
        let Answer { status } = serde_json::from_str(&text).map_err(unread)?;
        status.ok_or_else(|| Unknown("the API server gave no verdict on the token".into()))
    }
}

impl Verdicts {
    /// A review has ended; what it found is kept for a while.
    fn settle(&mut self, token: &Arc<str>, verdict: &Verdict) {
        self.asked.remove(token);
        let Ok(subject) = verdict else { return };
        let now = Instant::now();
        if self.kept.len() >= KEPT_MAX {
            self.kept.retain(|_, kept| kept.until > now);
        }
        if self.kept.len() < KEPT_MAX {
            self.kept.insert(token.clone(), Kept { subject: subject.clone(), until: now + KEPT_FOR });
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
