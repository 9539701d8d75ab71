//! What the services tell each other: shapes, and the one book that the shop has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Details {
    pub id: u32,
    pub title: String,
    pub author: String,
    pub year: u32,
    pub pages: u32,
    pub publisher: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reviews {
    /// The pod that answered: on the page it shows which one it was.
    pub pod: String,
    pub edition: String,
    pub reviews: Vec<Review>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Review {
    pub reviewer: String,
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stars: Option<Stars>,
}

/// Stars, or why there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stars {
    Given { count: u32, colour: String },
    Unavailable(String),
}

/// Stars by reader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratings {
    pub ratings: BTreeMap<String, u32>,
}

pub fn book() -> Details {
    Details {
        id: 0,
        title: "Where the Land Narrows".into(),
        author: "Ines Corda".into(),
        year: 1931,
        pages: 264,
        publisher: "Strait & Sons".into(),
    }
}

pub fn readers() -> [(&'static str, &'static str); 2] {
    [
        ("Reader1", "Two coasts and one road between them: I could not put it down before the ferry had left."),
        ("Reader2", "A little slow around the canal, but the maps alone are worth the price."),
    ]
}

/// What readers gave where no database keeps it.
pub fn built_in() -> Ratings {
    Ratings { ratings: [("Reader1".to_owned(), 5), ("Reader2".to_owned(), 4)].into() }
}
