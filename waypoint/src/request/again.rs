//! A request that became a stream of bytes is judged again, as it was, when its policies change. Those that its CUSTOM policies
//! asked are not asked a second time; those of new ones are.

use std::sync::Arc;

use http::Request;
use http::request::Parts;

use super::Context;
use super::guard::{Guard, Passed};
use crate::body::Body;
use crate::error::Reason;
use crate::facts::Arrival;
use crate::hygiene::Found;
use crate::permits::Permit;
use crate::settings::Policies;

pub struct Again {
    pub cx: Arc<Context>,
    pub arrival: Arc<Arrival>,
    pub permit: Permit,
    /// What it was judged by last.
    pub policies: Arc<Policies>,
    /// The head as it was judged.
    pub parts: Parts,
    pub found: Found,
    pub passed: Passed,
}

impl Again {
    /// Resolves when policy does not allow it any more.
    pub async fn lost(mut self) -> Reason {
        loop {
            let law = self.permit.changed().await;
            let settings = self.cx.settings.load();
            let guard = Guard {
                settings: &settings,
                policies: &law.policies,
                keys: &self.cx.keys,
                caller: &*self.cx.caller,
                arrival: &self.arrival,
                found: &self.found,
            };
            if let Err(refused) = guard.again(&self.policies, &mut self.parts, &mut Body::Empty, &mut self.passed).await {
                return refused.reason;
            }
            self.policies = law.policies.clone();
        }
    }
}

/// A head, without what is attached to it.
pub fn copy(parts: &Parts) -> Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method.clone_from(&parts.method);
    copy.uri.clone_from(&parts.uri);
    copy.version = parts.version;
    copy.headers.clone_from(&parts.headers);
    copy
}
