//! `isthmus why FROM TO`: asks the daemon that would decide, and prints its words. Nothing is decided here.

use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::cli::{Format, Why};
use crate::mesh::ask::Declined;
use crate::say::{self, BAD, GOOD, NOTE};
use crate::site::{Choice, Door, Site};
use crate::status::table;

pub async fn why(choice: Choice, mesh: &Option<String>, options: &Why) -> anyhow::Result<ExitCode> {
    check_destination(&options.destination)?;
    let site = Site::find(choice, mesh.as_deref(), &options.at).await?;
    let told = ask(&site, &options.pod, &options.destination, options.at.namespace.as_deref()).await?;
    match options.output {
        Format::Json => say::out(serde_json::to_string_pretty(&told)?),
        Format::Table => show(&told),
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the caller's node; for an address, or a pod outside the mesh, any node: all know the same.
async fn ask(site: &Site, from: &str, to: &str, namespace: Option<&str>) -> anyhow::Result<Value> {
    let doors = site.doors().await?;
    let first = doors.first().context("the mesh has no node")?;
    if from.parse::<std::net::IpAddr>().is_ok() {
        return explain(first, from, to).await;
    }
    let pod = site.pod(from, namespace).await?;
    let door = doors.iter().find(|door| door.node == pod.node).unwrap_or(first);
    explain(door, if pod.is_enrolled { &pod.name } else { &pod.address }, to).await
}

fn check_destination(to: &str) -> anyhow::Result<()> {
    match to.rsplit_once(':') {
        None => bail!("{to:?} has no port; write HOST:PORT, for example front.shop:80"),
        Some((_, port)) => match port.parse::<u16>() {
            Ok(1..) => Ok(()),
            _ => bail!("{port:?} in {to:?} is not a port; write HOST:PORT, for example front.shop:80"),
        },
    }
}

/// `GET /why` of a daemon.
pub async fn explain(door: &Door, from: &str, to: &str) -> anyhow::Result<Value> {
    let answer = door.page(&format!("/why?from={}&to={}", escaped(from), escaped(to))).await;
    answer.map_err(|error| match error.downcast_ref::<Declined>() {
        // The question was understood and has no answer: the daemon's own words say it best.
        Some(declined) if declined.status == 400 => anyhow::anyhow!("{}", declined.words),
        _ => error,
    })
}

/// Percent-encoding of everything but what RFC 3986 leaves unreserved.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn show(told: &Value) {
    let text = |path: &str| told.pointer(path).and_then(Value::as_str);
    let refused = told.pointer("/policy/allowed") == Some(&Value::Bool(false)) || text("/resolve/outcome") == Some("refused");
    let style = if refused { BAD } else { GOOD };
    say::out(format!("{style}{}{style:#}", text("/answer").unwrap_or("the daemon gave no answer")));
    let lines = [
        ("from", ["/from/workload", "/from/identity", "/from/address"].as_slice()),
        ("to", &["/to/stands_for", "/to/standsFor", "/to/address"]),
        ("path", &["/resolve/because", "/resolve/via", "/resolve/address", "/resolve/authority"]),
        ("policy", &["/policy/because", "/policy/judge"]),
    ];
    for (title, paths) in lines {
        let parts: Vec<&str> = paths.iter().filter_map(|path| text(path)).filter(|part| !part.is_empty()).collect();
        if !parts.is_empty() {
            say::out(format!("  {title:<7} {}", parts.join(", ")));
        }
    }
    for reason in ["/resolve/reason", "/policy/reason"] {
        if let (Some(sentence), Some(advice)) = (text(&format!("{reason}/sentence")), text(&format!("{reason}/advice"))) {
            say::out(format!("  {NOTE}reason{NOTE:#}  {sentence}\n  {NOTE}advice{NOTE:#}  {advice}"));
        }
    }
    let endpoints = told["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !endpoints.is_empty() {
        let mut shown = table(["ENDPOINT", "JUDGEMENT", "PORT", "RANK", "WEIGHT"]);
        for endpoint in endpoints {
            let cell = |key: &str| match &endpoint[key] {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => "-".to_owned(),
            };
            shown.add_row(["workload", "judgement", "port", "rank", "weight"].map(cell));
        }
        say::out(shown.trim_fmt());
    }
    for note in told["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        say::out(format!("  note    {note}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_needs_a_port() {
        for (to, wrong) in [("front.shop:80", ""), ("[fd10::1]:80", ""), ("front", "has no port"), ("front:99999", "is not a port"), ("front:0", "is not a port"), ("front:http", "is not a port")] {
            let said = check_destination(to).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(wrong) && said.is_empty() == wrong.is_empty(), "{to}: {said}");
        }
    }

    #[test]
    fn a_question_is_escaped() {
        assert_eq!(escaped("shop/cart&x=[fd10::1]:80"), "shop%2Fcart%26x%3D%5Bfd10%3A%3A1%5D%3A80");
    }
}
