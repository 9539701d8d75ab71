//! The tour: what the mesh claims, shown step by step on real traffic. Each step prints what it proves; a step holds
//! only if every single fact in it does.

pub mod packet;
pub mod records;
pub mod evidence;
pub mod wire;
mod layer7;
mod steps;

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::lab::node::{wire_netns, wire_port};
use crate::lab::state::{PodState, State};
use crate::say::{self, BAD, GOOD, NOTE, STRONG};
use crate::shop::MARKER;
use wire::Wire;

/// One thing that a step found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// None: it is told, and judged by another fact.
    pub held: Option<bool>,
    pub text: String,
}

/// Who plays: pods of the sample shop.
#[derive(Debug)]
pub struct Cast<'a> {
    state: &'a State,
    /// In the mesh, on node-2; asks `front`.
    load: &'a PodState,
    /// In the mesh, on node-1.
    front: &'a PodState,
    /// In the mesh, on node-2.
    catalog: &'a PodState,
    /// Not in the mesh, on node-1; asks `depot`.
    courier: &'a PodState,
    /// Not in the mesh, on node-2.
    depot: &'a PodState,
}

/// Whether somebody reads along and wants to go at their own pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    ByItself,
    WaitForEnter,
}

fn held(held: bool, text: impl Into<String>) -> Fact {
    Fact { held: Some(held), text: text.into() }
}

fn told(text: impl Into<String>) -> Fact {
    Fact { held: None, text: text.into() }
}

impl<'a> Cast<'a> {
    fn of(state: &'a State) -> anyhow::Result<Cast<'a>> {
        let pod = |name: &str| state.pod(name).context("the tour needs the pods of the sample shop; run `isthmus up` without a folder");
        Ok(Cast {
            state,
            load: pod("shop/load")?,
            front: pod("shop/front")?,
            catalog: pod("shop/catalog")?,
            courier: pod("outside/courier")?,
            depot: pod("outside/depot")?,
        })
    }
}

/// `isthmus tour`, against a mesh that runs.
pub async fn tour_of(mesh: &Option<String>, once: bool) -> anyhow::Result<ExitCode> {
    let state = State::find(mesh.as_deref())?;
    let pace = if once || !std::io::stdin().is_terminal() { Pace::ByItself } else { Pace::WaitForEnter };
    Ok(if tour(&state, pace).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Takes the tour; true if every step held.
pub async fn tour(state: &State, pace: Pace) -> anyhow::Result<bool> {
    let cast = Cast::of(state)?;
    let port = wire_port(state.nodes.first().context("there is no node")?);
    let wire = Wire::tap(&wire_netns(&state.mesh), &port, &[MARKER, crate::shop::MARK_NOTE])?;
    let titles = steps::TITLES;
    let mut all_held = true;
    for (index, title) in titles.iter().enumerate() {
        say::out(format!("\n{STRONG}[{}/{}] {title}{STRONG:#}", index + 1, titles.len()));
        let facts = steps::take(index, &cast, &wire).await.unwrap_or_else(|error| vec![held(false, format!("{error:#}"))]);
        for fact in &facts {
            let (style, sign) = match fact.held {
                Some(true) => (GOOD, "holds"),
                Some(false) => (BAD, "FAILS"),
                None => (NOTE, "-    "),
            };
            say::out(format!("  {style}{sign}{style:#}  {}", fact.text));
        }
        all_held &= !facts.is_empty() && facts.iter().all(|fact| fact.held != Some(false));
        if pace == Pace::WaitForEnter && index + 1 < titles.len() {
            wait_for_enter("Enter: next step").await?;
        }
    }
    match all_held {
        true => say::out(format!("\n{GOOD}Every step held.{GOOD:#}")),
        false => say::out(format!("\n{BAD}Not every step held.{BAD:#} The logs are in {}.", state.run.join("logs").display())),
    }
    Ok(all_held)
}

/// Waits for a line on standard input; its end counts as one.
pub async fn wait_for_enter(prompt: &str) -> anyhow::Result<()> {
    say::out(format!("  -- {prompt}"));
    let (entered, wait) = tokio::sync::oneshot::channel();
    // A thread of its own, that nobody waits for: Ctrl-C ends the program while this one still reads.
    std::thread::spawn(move || entered.send(std::io::stdin().lock().read_line(&mut String::new())));
    wait.await.context("the reader of the keyboard ended")??;
    Ok(())
}
