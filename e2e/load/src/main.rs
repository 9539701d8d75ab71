//! Load for the tests on Kubernetes, and the server that it goes to: one program, so that one image is enough. It knows
//! nothing of the mesh.
//!
//! | mode | does |
//! |---|---|
//! | `serve` | answers with who called, echoes what is held, answers probes |
//! | `run` | connections at a steady rate, counted one by one; prints a report as JSON |
//! | `wander` | tries many addresses, each once |
//! | `ask` | one request; prints the answer |

mod answer;
mod client;
mod report;
mod run;
mod serve;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Where `serve` answers over HTTP.
pub const HTTP_PORT: u16 = 9080;
/// Where it does too, so that rules may tell ports apart.
pub const OTHER_HTTP_PORT: u16 = 9083;
/// Where it says back what it hears.
pub const ECHO_PORT: u16 = 9081;
/// Where it answers gRPC's health check.
pub const GRPC_PORT: u16 = 9082;

#[derive(Parser)]
#[command(name = "meshload", version)]
enum Mode {
    /// Answers over HTTP (9080, 9083) with who called, echoes (9081), answers gRPC's health check (9082)
    Serve {
        /// What it calls itself in its answers
        #[arg(long, env = "HOSTNAME", default_value = "")]
        name: String,
        /// HOST:PORT that is asked from the first moment on; /ready says yes once it has answered
        #[arg(long)]
        first: Option<String>,
        /// Seconds for which it goes on to serve when it is told to stop
        #[arg(long, default_value_t = 0)]
        linger: u64,
    },
    /// Loads a `serve` until the standard input ends. Prints `begun` when something was answered, and a report at the end;
    /// the exit status says whether nothing failed
    Run {
        /// Where it runs: its HTTP port's and its echo port's host
        host: String,
        /// New connections per second, each with one request
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
        rate: u32,
        /// Connections that are kept for one request after the other, ten in a second
        #[arg(long, default_value_t = 4)]
        kept: u32,
        /// Connections that are held for as long as it runs; blocks go there and back, and are compared
        #[arg(long, default_value_t = 10)]
        held: u32,
        /// Milliseconds between two blocks of a held connection
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        pause: u64,
        /// A host that must refuse each of ten connections a second
        #[arg(long)]
        refusing: Option<String>,
        /// `name: value`, on every request
        #[arg(long = "header")]
        headers: Vec<String>,
        /// End by itself after so many seconds
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Tries one address after the other, some hundreds at a time, and says how many took a connection
    Wander {
        /// The first address
        from: std::net::Ipv4Addr,
        /// How many
        count: u32,
        #[arg(long, default_value_t = HTTP_PORT)]
        port: u16,
    },
    /// Asks once; the exit status says whether the answer was 200
    Ask {
        /// HOST:PORT
        at: String,
        #[arg(default_value = "/")]
        path: String,
        /// `name: value`
        #[arg(long = "header")]
        headers: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Mode::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("meshload: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(mode: Mode) -> anyhow::Result<bool> {
    match mode {
        Mode::Serve { name, first, linger } => serve::run(&name, first, Duration::from_secs(linger)).await.map(|()| true),
        Mode::Run { host, rate, kept, held, pause, refusing, headers, seconds } => {
            let plan = run::Plan { host, rate, kept, held, pause: Duration::from_millis(pause), refusing, headers };
            let report = run::run(plan, run::end(seconds.map(Duration::from_secs))).await;
            println!("{}", serde_json::to_string(&report)?);
            Ok(report.failed() == 0)
        }
        Mode::Wander { from, count, port } => {
            println!("{}", run::wander(from, count, port).await);
            Ok(true)
        }
        Mode::Ask { at, path, headers } => match client::fresh(&client::To::new(at.clone(), &headers), &path).await {
            Ok(answer) => {
                println!("{}", answer.body.trim_end());
                Ok(answer.status == 200)
            }
            Err(why) => anyhow::bail!("{at}: {why}"),
        },
    }
}
