//! The tour's step at layer 7: a waypoint splits, routes by a header, and asks for a token. Each request is made by a pod of
//! the shop, and judged by the answer that its program got.

use std::time::{Duration, Instant, SystemTime};

use mesh_identity::token::{MAX_LIFE, Minter, ObjectRef, Subject};

use super::steps::TourFile;
use super::{Cast, Fact, held};
use crate::exec;
use crate::lab::state::PodState;

const URL: &str = "http://catalog/";
/// Asked so often; one of ten is to come from the second edition.
const REQUESTS: usize = 100;
/// Of so many requests with a share of ten percent fewer than 2 or more than 25 come once in thousands of tours.
const SHARE: std::ops::RangeInclusive<usize> = 2..=25;
const ISSUER: &str = "https://tour.isthmus.local";
const AUDIENCE: &str = "catalog";
/// How long the step waits for a policy to be in force, and to be gone.
const PATIENCE: Duration = Duration::from_secs(8);

pub async fn waypoint(cast: &Cast<'_>) -> anyhow::Result<Vec<Fact>> {
    let split = editions(cast.front, REQUESTS, &[]).await?;
    let by_header = editions(cast.front, 10, &["x-edition: v2"]).await?;
    let mut facts = vec![
        held(
            split.iter().sum::<usize>() == REQUESTS && SHARE.contains(&split[1]),
            format!("90/10: of {REQUESTS} requests from front to catalog {} were answered by the first edition, {} by the second, {} not at all", split[0], split[1], REQUESTS - split.iter().sum::<usize>()),
        ),
        held(by_header == [0, 10], format!("with the header x-edition: v2 all of 10 go to the second edition: {} did", by_header[1])),
    ];
    facts.extend(tokens(cast).await?);
    Ok(facts)
}

/// How many answers came from each edition.
async fn editions(from: &PodState, times: usize, headers: &[&str]) -> anyhow::Result<[usize; 2]> {
    let times = times.to_string();
    let mut command = vec!["isthmus-shop", "get", URL, "--times", &times];
    headers.iter().for_each(|header| command.extend(["--header", header]));
    let said = String::from_utf8_lossy(&exec::run(from, &command).await?.stdout).into_owned();
    Ok(["edition v1", "edition v2"].map(|edition| said.lines().filter(|line| line.contains(edition)).count()))
}

async fn tokens(cast: &Cast<'_>) -> anyhow::Result<Vec<Fact>> {
    let (known, strange) = (Minter::generate(ISSUER)?, Minter::generate(ISSUER)?);
    let subject = Subject { namespace: "shop".into(), service_account: ObjectRef { name: "customer".into(), uid: "customer".into() }, pod: None, node: None };
    let bearer = |minter: &Minter| minter.mint(&subject, AUDIENCE, MAX_LIFE, SystemTime::now()).map(|token| format!("authorization: Bearer {token}"));
    let (good, forged) = (bearer(&known)?, bearer(&strange)?);
    let policies = TourFile::write(cast, "tour-tokens.yaml", &policies(&known.public_jwks()))?;
    let without = becomes(cast.front, &[], "403").await?;
    let with_forged = becomes(cast.front, &[&forged], "401").await?;
    let with_good = becomes(cast.front, &[&good], "200").await?;
    drop(policies);
    let after = becomes(cast.front, &[], "200").await?;
    let fact = |what: &str, (is, took): (String, Option<Duration>)| match took {
        Some(took) => held(true, format!("{what}: {is}, {} ms after the question was first put", took.as_millis())),
        None => held(false, format!("{what}: {is}")),
    };
    Ok(vec![
        fact("catalog asks for a token now, and a request without one is refused", without),
        fact("one with a token that somebody else signed is refused", with_forged),
        fact("one with a token of the issuer is answered", with_good),
        fact("the file removed, nobody is asked for a token", after),
    ])
}

fn policies(jwks: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tour-tokens, namespace: shop}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: catalog}}]\n  jwtRules:\n  - issuer: {ISSUER}\n    audiences: [{AUDIENCE}]\n    jwks: '{jwks}'\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: tour-tokens, namespace: shop}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: catalog}}]\n  action: ALLOW\n  rules:\n  - from:\n    - source:\n        requestPrincipals: ['{ISSUER}/*']\n"
    )
}

/// Asks until the answer has this status; the last status, and how long it took if it came.
async fn becomes(from: &PodState, headers: &[&str], status: &str) -> anyhow::Result<(String, Option<Duration>)> {
    let began = Instant::now();
    loop {
        let mut command = vec!["isthmus-shop", "get", URL, "--timeout-ms", "1000"];
        headers.iter().for_each(|header| command.extend(["--header", header]));
        let output = exec::run(from, &command).await?;
        // Said on standard output when all went well, and else with the reason.
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim().trim_start_matches("isthmus-shop: ").to_owned()).concat();
        let is = said.starts_with(status) || said.contains(&format!("answers {status} "));
        if is || began.elapsed() > PATIENCE {
            let shown: String = said.chars().take(100).collect();
            return Ok((shown, is.then(|| began.elapsed())));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
