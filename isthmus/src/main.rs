//! The operator's command, on this machine and on a cluster.

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use isthmus::cli::{Cli, Command};
use isthmus::mesh::token;
use isthmus::site::{self, Choice};
use isthmus::{check, down, exec, lab, policy, say, selftest, status, tour, up, view, waypoint, why};

fn main() -> ExitCode {
    // The stages of a pod's first process come before any thread: a user namespace needs a process with one thread.
    match std::env::args().nth(1).as_deref() {
        Some("__pod-keep") => return inside(lab::inside::keep),
        Some("__pod-first") => return inside(lab::inside::first),
        Some("__pod-run") => return inside(lab::inside::run),
        Some("__own-init") => return finish(lab::machine::own_init()),
        _ => {}
    }
    find_system_programs();
    finish(run(Cli::parse()))
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    cli.check_name().map_err(anyhow::Error::msg)?;
    let choice = site::of_command(&cli).transpose()?.unwrap_or(Choice::Machine);
    if choice == Choice::Machine {
        lab::machine::enter(&cli)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Up(options) => up::up(&cli.name, options).await,
            Command::Down => down::down(&cli.name).await,
            Command::Exec(what) => exec::exec(&cli.name, &what),
            Command::Status(options) => status::status(choice, &cli.name, &options).await,
            Command::Check(options) => check::check(&options).await,
            Command::Connections(options) => view::connections::connections(choice, &cli.name, &options).await,
            Command::Why(options) => why::why(choice, &cli.name, &options).await,
            Command::Policy(options) => policy::policy(choice, &cli.name, &options).await,
            Command::Waypoint(command) => waypoint::run(cli.name, &command).await,
            Command::Token { account: (namespace, account) } => {
                let run = lab::state::State::find(cli.name.as_deref())?.run;
                println!("{}", token::for_machine(&run, &namespace, &account)?);
                Ok(ExitCode::SUCCESS)
            }
            Command::Selftest(options) => selftest::selftest(&options).await,
            Command::Tour { once } => tour::tour_of(&cli.name, once).await,
            Command::Completion { shell } => {
                clap_complete::generate(shell, &mut Cli::command(), "isthmus", &mut std::io::stdout());
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

fn inside(stage: fn() -> anyhow::Result<()>) -> ExitCode {
    match stage() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isthmus: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        say::error(&error);
        ExitCode::FAILURE
    })
}

/// `ip` and `nft` live in /usr/sbin, which a normal user's PATH often lacks: this program starts itself again with it.
fn find_system_programs() {
    let path = std::env::var("PATH").unwrap_or_default();
    if path.split(':').any(|folder| folder == "/usr/sbin") {
        return;
    }
    if let Ok(own) = std::env::current_exe() {
        // Returns only if it failed; then we go on with what there is.
        let _ = std::process::Command::new(own).args(std::env::args_os().skip(1)).env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")).exec();
    }
}
