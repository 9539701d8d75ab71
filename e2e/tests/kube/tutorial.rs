//! The commands of docs/kubernetes.md, as they stand there, from an empty cluster back to an empty one.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{Check, Outcome};

use super::cluster::{Cluster, SOON, bounded, root, until};

/// The parts of the document whose blocks are run, in this order.
const PARTS: [&str; 3] = ["## Three commands", "## The sample", "## Back to nothing"];

/// What a command's answer must hold, where its exit status says too little. Levels come a moment later: it is asked again.
const ANSWERS: [(&str, &str); 5] = [
    ("isthmus status", "nothing is wrong"),
    ("kubectl get pods -A", "POD"),
    ("helm test", "Succeeded"),
    ("logs deployment/traffic", "answered="),
    ("logs -l app=ztunnel", "src.identity=\"spiffe://cluster.local/ns/bookinfo/sa/bookinfo-"),
];

pub fn checks() -> Vec<Check<Cluster>> {
    vec![Check { name: "the_commands_of_the_tutorial_do_what_it_says", run: the_commands_of_the_tutorial_do_what_it_says, known: None }]
}

fn the_commands_of_the_tutorial_do_what_it_says(cluster: &Cluster) -> Result<Outcome> {
    if !cluster.ours {
        return Ok(Outcome::Skipped("the tutorial names the images and ranges of the cluster for tests".into()));
    }
    let document = std::fs::read_to_string(root().join("docs/kubernetes.md"))?;
    let mut ran = 0;
    for part in PARTS {
        for command in commands(&document, part).with_context(|| part.to_owned())? {
            run(&command).with_context(|| command.text.clone())?;
            ran += 1;
        }
    }
    ensure!(ran > 10, "only {ran} commands were found");
    Ok(Outcome::Held)
}

/// One command of a block, and the remark behind it.
struct Step {
    text: String,
    remark: String,
}

fn commands(document: &str, heading: &str) -> Result<Vec<Step>> {
    let from = document.find(heading).context("there is no such heading")? + heading.len();
    let part = &document[from..];
    let part = &part[..part.find("\n## ").unwrap_or(part.len())];
    // Every other piece between fences is a block.
    let blocks = part.split("\n```").skip(1).step_by(2);
    let whole = blocks.map(|block| block.replace("\\\n", " ")).collect::<Vec<_>>().join("\n");
    let lines = whole.lines().filter(|line| !line.trim().is_empty());
    Ok(lines
        .map(|line| {
            let (text, remark) = line.split_once("     #").unwrap_or((line, ""));
            Step { text: text.trim().to_owned(), remark: remark.trim().to_owned() }
        })
        .collect())
}

/// As in a shell in the folder of the sources, with `isthmus` where programs are.
fn shell(text: &str) -> Command {
    let programs = format!("{}:{}", root().join("target/debug").display(), std::env::var("PATH").unwrap_or_default());
    let mut command = bounded("bash");
    command.args(["-c", text]).current_dir(root()).env("PATH", programs);
    command
}

fn run(step: &Step) -> Result<()> {
    if let Some(url) = step.remark.strip_prefix("then ") {
        return beside(&step.text, url);
    }
    let answer = ANSWERS.iter().find(|(part, _)| step.text.contains(part)).map(|(_, answer)| *answer);
    let once = || -> Result<Option<()>> {
        let output = shell(&step.text).output()?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success() != (step.remark == "refused"), "it says: {}", said.trim());
        ensure!(answer.is_none_or(|answer| said.contains(answer)), "it says: {}", said.trim());
        Ok(Some(()))
    };
    // What changes something is typed once; a look, or an attempt that shall be refused, may come a moment too early.
    if answer.is_some() || step.remark == "refused" { until(SOON, "what the tutorial says", once) } else { once().map(drop) }
}

/// A command that goes on, and the page that is looked at meanwhile.
fn beside(text: &str, url: &str) -> Result<()> {
    let mut child = shell(&format!("exec {text}")).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let page = until(SOON, url, || {
        let output = bounded("curl").args(["-s", "-f", url]).output()?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    });
    let ended = child.try_wait()?;
    // `timeout` hands the signal on.
    Command::new("kill").arg(child.id().to_string()).status()?;
    child.wait()?;
    if let Some(status) = ended {
        bail!("it ended with {status}");
    }
    ensure!(page?.contains("<title>Bookinfo</title>"), "another page is at {url}");
    Ok(())
}
