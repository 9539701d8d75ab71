//! A small bookshop's page, in services that call each other in the clear. They know nothing of the mesh: what protects
//! their calls is put around them.
//!
//! ```text
//!               ┌─▶ details
//! productpage ──┤
//!               └─▶ reviews (v1 without stars, v2 black, v3 red) ──▶ ratings ──▶ PostgreSQL, if DATABASE is set
//! ```

mod books;
mod http;
mod page;
mod postgres;
mod services;
mod traffic;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// One program, one service of the sample: which one is its argument.
#[derive(Parser)]
#[command(name = "bookinfo", version)]
enum Service {
    /// The web page; asks details and reviews
    Productpage {
        /// host:port of details
        #[arg(long, env = "DETAILS", default_value = "details:9080")]
        details: String,
        /// host:port of reviews
        #[arg(long, env = "REVIEWS", default_value = "reviews:9080")]
        reviews: String,
    },
    /// What kind of book it is
    Details,
    /// What readers say; from v2 on it asks ratings
    Reviews {
        #[arg(long, env = "REVIEWS_VERSION", default_value = "v1")]
        edition: services::Edition,
        /// host:port of ratings
        #[arg(long, env = "RATINGS", default_value = "ratings:9080")]
        ratings: String,
    },
    /// How many stars readers give
    Ratings {
        /// postgres://USER@HOST:PORT/DATABASE, where they are kept; without it they are built in
        #[arg(long, env = "DATABASE")]
        database: Option<postgres::Database>,
    },
    /// Asks for a page over and over, each time on a new connection, and says every second how it went
    Traffic {
        /// http://host:port/path
        url: traffic::Url,
        /// Requests per second
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
        /// Stop after so many requests; the exit status says whether all were answered
        #[arg(long)]
        count: Option<u64>,
        /// Stop when the standard input ends
        #[arg(long)]
        until_input_ends: bool,
    },
    /// Asks for a page once, prints what came; the exit status says whether it was answered
    Get {
        /// http://host:port/path
        url: traffic::Url,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = tokio::select! {
        done = run(Service::parse()) => done,
        () = http::told_to_stop() => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bookinfo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(service: Service) -> anyhow::Result<()> {
    match service {
        Service::Productpage { details, reviews } => services::productpage(details, reviews).await,
        Service::Details => services::details().await,
        Service::Reviews { edition, ratings } => services::reviews(edition, ratings).await,
        Service::Ratings { database } => services::ratings(database).await,
        Service::Traffic { url, rate, count, until_input_ends } => {
            let end = async {
                if until_input_ends {
                    http::input_ends().await
                } else {
                    std::future::pending().await
                }
            };
            traffic::run(&url, Duration::from_secs(1) / rate, count, end).await
        }
        Service::Get { url } => traffic::once(&url).await,
    }
}
