//! What policies say of a stream of bytes, which has no attributes of a request (spec/waypoint.md 4.4): those whom CUSTOM policies
//! ask, then AUDIT, DENY, ALLOW.

use std::sync::Arc;

use crate::authorize::{self, Note};
use crate::call::Caller;
use crate::ext_authz;
use crate::facts::Arrival;
use crate::settings::Settings;

/// `heard`: providers that have agreed to this stream before, who are not asked again.
///
/// # Errors
/// `response_code_details` of a refusal, for the log: the stream is to be reset.
pub async fn pass(
    settings: &Settings,
    policies: &[Arc<authorize::Policy>],
    arrival: &Arrival,
    server_name: Option<&str>,
    caller: &dyn Caller,
    heard: &mut Vec<Arc<str>>,
) -> Result<Vec<Note>, String> {
    let trust_domains = &settings.mesh().trust_domains;
    for ask in authorize::custom_stream(policies, arrival, server_name, trust_domains) {
        if heard.contains(&ask.provider) {
            continue;
        }
        let provider = settings.ext_authz(&ask.provider).map(|provider| &**provider);
        ext_authz::check_stream(provider, &ask, arrival, server_name, caller).await?;
        heard.push(ask.provider.clone());
    }
    let verdict = authorize::decide_stream(policies, arrival, server_name, trust_domains);
    match verdict.refused {
        None => Ok(verdict.notes),
        Some(refused) => Err(refused.details),
    }
}
