//! The services: what each answers, and whom it asks for that.

use std::sync::Arc;

use clap::ValueEnum;
use hyper::StatusCode;

use crate::books::{self, Details, Ratings, Review, Reviews, Stars};
use crate::http::{self, Answer};
use crate::page;
use crate::postgres::Database;

/// Versions of reviews, as they may run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Edition {
    V1,
    V2,
    V3,
}

impl Edition {
    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
        }
    }

    fn colour(self) -> Option<&'static str> {
        match self {
            Self::V1 => None,
            Self::V2 => Some("black"),
            Self::V3 => Some("red"),
        }
    }
}

fn nothing(path: &str) -> Answer {
    Answer::error(StatusCode::NOT_FOUND, format!("there is nothing at {path}"))
}

pub async fn productpage(details: String, reviews: String) -> anyhow::Result<()> {
    let places = Arc::new((details, reviews));
    http::serve(move |path| {
        let places = places.clone();
        async move {
            match path.as_str() {
                "/" | "/productpage" => {
                    let (details, reviews) = tokio::join!(
                        http::ask::<Details>(&places.0, "/details/0"),
                        http::ask::<Reviews>(&places.1, "/reviews/0")
                    );
                    // The page always comes: what could not be had is said on it.
                    Answer::html(page::page(details.map_err(|why| format!("{why:#}")), reviews.map_err(|why| format!("{why:#}"))))
                }
                _ => nothing(&path),
            }
        }
    })
    .await
}

pub async fn details() -> anyhow::Result<()> {
    http::serve(|path| async move {
        match path.as_str() {
            "/details/0" => Answer::json(&books::book()),
            _ => nothing(&path),
        }
    })
    .await
}

pub async fn reviews(edition: Edition, ratings: String) -> anyhow::Result<()> {
    let pod = std::env::var("HOSTNAME").unwrap_or_default();
    http::serve(move |path| {
        let (ratings, pod) = (ratings.clone(), pod.clone());
        async move {
            if path != "/reviews/0" {
                return nothing(&path);
            }
            let given = match edition.colour() {
                None => None,
                Some(colour) => Some((colour, http::ask::<Ratings>(&ratings, "/ratings/0").await.map_err(|why| format!("{why:#}")))),
            };
            Answer::json(&with_stars(edition, pod, given))
        }
    })
    .await
}

/// The reviews with the stars that were given, or with the reason why there are none; `None`: this edition shows no stars.
fn with_stars(edition: Edition, pod: String, given: Option<(&str, Result<Ratings, String>)>) -> Reviews {
    let stars = |reviewer: &str| {
        let (colour, ratings) = given.as_ref()?;
        Some(match ratings {
            Err(why) => Stars::Unavailable(why.clone()),
            Ok(given) => match given.ratings.get(reviewer) {
                Some(count) => Stars::Given { count: *count, colour: (*colour).to_owned() },
                None => Stars::Unavailable(format!("{reviewer} gave no stars")),
            },
        })
    };
    let review =
        |(reviewer, text): (&str, &str)| Review { reviewer: reviewer.to_owned(), text: text.to_owned(), stars: stars(reviewer) };
    Reviews { pod, edition: edition.name().to_owned(), reviews: books::readers().map(review).into() }
}

pub async fn ratings(database: Option<Database>) -> anyhow::Result<()> {
    let database = Arc::new(database);
    http::serve(move |path| {
        let database = database.clone();
        async move {
            match (path.as_str(), database.as_ref()) {
                ("/ratings/0", None) => Answer::json(&books::built_in()),
                ("/ratings/0", Some(database)) => match database.ratings().await {
                    Ok(ratings) => Answer::json(&ratings),
                    Err(why) => Answer::error(StatusCode::SERVICE_UNAVAILABLE, format!("no stars from the database: {why:#}")),
                },
                _ => nothing(&path),
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_edition_shows_its_stars_and_says_why_there_are_none() {
        let stars = |edition, given| with_stars(edition, "pod".into(), given).reviews.into_iter().map(|review| review.stars).collect::<Vec<_>>();
        let of = |count, colour: &str| Some(Stars::Given { count, colour: colour.into() });
        assert_eq!(stars(Edition::V1, None), [None, None]);
        assert_eq!(stars(Edition::V2, Some(("black", Ok(books::built_in())))), [of(5, "black"), of(4, "black")]);
        assert_eq!(stars(Edition::V3, Some(("red", Ok(books::built_in())))), [of(5, "red"), of(4, "red")]);
        let refused = Some(Stars::Unavailable("refused".into()));
        assert_eq!(stars(Edition::V2, Some(("black", Err("refused".into())))), [refused.clone(), refused]);
        let one = Ratings { ratings: [("Reader1".to_owned(), 1)].into() };
        assert_eq!(stars(Edition::V3, Some(("red", Ok(one)))), [of(1, "red"), Some(Stars::Unavailable("Reader2 gave no stars".into()))]);
    }
}
