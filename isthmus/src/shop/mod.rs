//! The sample shop's programs, one binary for all (`isthmus-shop`): services that talk plain HTTP to each other and
//! know nothing of a mesh, a load generator, and the clients that the tour runs inside pods.

pub(crate) mod client;
mod intrude;
mod services;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

pub use intrude::{Attempt, FORGED, MARK_NOTE};

/// Text that is in what the shop's services say to each other. On the wire between nodes it must never be seen.
pub const MARKER: &str = "isthmus-plain-text-marker-7c1e";

#[derive(Debug, Parser)]
#[command(name = "isthmus-shop", about = "The sample shop's services and the tour's clients.")]
enum Role {
    /// The page that customers see: asks catalog and cart.
    Front {
        #[arg(long)]
        catalog: String,
        #[arg(long)]
        cart: String,
    },
    /// What is for sale.
    Catalog {
        /// Said in each answer: which of several it is.
        #[arg(long, default_value = "v1")]
        edition: String,
    },
    /// What is in the basket: kept in the database.
    Cart {
        #[arg(long)]
        db: String,
    },
    /// Keeps values by key.
    Db,
    /// A customer who never sleeps: asks for the page again and again.
    Load {
        url: String,
        /// Requests per second.
        #[arg(long, default_value_t = 5.0)]
        rate: f64,
    },
    /// Asks for one page, each time on a new connection; fails if one request fails.
    Get {
        url: String,
        #[arg(long, default_value_t = 1)]
        times: u32,
        /// Milliseconds for each request.
        #[arg(long, default_value_t = 3000)]
        timeout_ms: u64,
        /// NAME: VALUE, sent with each request.
        #[arg(long)]
        header: Vec<String>,
    },
    /// Asks again and again on one connection and says when it is cut, in milliseconds since 1970.
    Hold { url: String },
    /// Sends one packet with a source address that is not the pod's.
    Spoof { from: std::net::Ipv4Addr, to: std::net::Ipv4Addr },
    /// Opens a raw socket, and says by its exit status whether it could.
    RawSocket,
    /// Tries what a pod must not be able to do; prints one line of JSON for each attempt.
    Intrude(intrude::Targets),
}

/// The program.
pub fn main() -> ExitCode {
    let role = Role::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("isthmus-shop: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(play(role)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isthmus-shop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn play(role: Role) -> anyhow::Result<()> {
    match role {
        Role::Front { catalog, cart } => services::front(&catalog, &cart).await,
        Role::Catalog { edition } => services::catalog(&edition).await,
        Role::Cart { db } => services::cart(&db).await,
        Role::Db => services::db().await,
        Role::Load { url, rate } => client::load(&url, rate).await,
        Role::Get { url, times, timeout_ms, header } => client::get_times(&url, times, &header, Duration::from_millis(timeout_ms)).await,
        Role::Hold { url } => client::hold(&url).await,
        Role::Spoof { from, to } => intrude::spoof(from, to),
        Role::RawSocket => intrude::raw_socket(),
        Role::Intrude(targets) => intrude::intrude(&targets).await,
    }
}
