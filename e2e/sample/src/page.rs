//! The page that a reader sees. Pure: what is known of the book becomes HTML.

use std::fmt::Write as _;

use crate::books::{Details, Reviews, Stars};

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Bookinfo</title><style>
body { margin: 0; font: 17px/1.5 Georgia, serif; color: #20303c; background: #f4f1ea }
header { background: #1d4e5f; color: #fff; padding: 1.2rem 2rem }
header h1 { margin: 0; font-weight: normal } header p { margin: 0; opacity: .8 }
main { display: flex; flex-wrap: wrap; gap: 1.5rem; padding: 1.5rem 2rem; max-width: 62rem }
section { flex: 1 1 20rem; background: #fff; border: 1px solid #dcd6c8; border-radius: 4px; padding: 1rem 1.4rem }
h2 { font-size: 1.1rem; margin: 0 0 .6rem; color: #1d4e5f }
dt { float: left; clear: left; width: 7rem; color: #6a7680 } dd { margin: 0 0 .2rem 7rem }
blockquote { margin: 0 0 1rem; padding-left: .9rem; border-left: 3px solid #dcd6c8 } blockquote p { margin: 0 }
.stars { font-size: 1.3rem; letter-spacing: .15rem } .black { color: #222 } .red { color: #c0392b }
.missing { color: #a33; background: #fbecea; padding: .5rem .8rem; border-radius: 3px }
footer { color: #6a7680; font-size: .85rem }
</style></head><body>
"#;

/// The whole page. What could not be had is named in its place, with the reason.
pub fn page(details: Result<Details, String>, reviews: Result<Reviews, String>) -> String {
    let mut html = HEAD.to_owned();
    let title = details.as_ref().map_or("Bookinfo", |book| book.title.as_str());
    let author = details.as_ref().map_or("", |book| book.author.as_str());
    put(&mut html, format_args!("<header><h1>{}</h1><p>{}</p></header><main>\n", text(title), text(author)));
    html.push_str("<section><h2>Details</h2>\n");
    match &details {
        Ok(book) => {
            let rows = [("Year", book.year.to_string()), ("Pages", book.pages.to_string()), ("Publisher", text(&book.publisher))];
            html.push_str("<dl>");
            rows.iter().for_each(|(name, value)| put(&mut html, format_args!("<dt>{name}</dt><dd>{value}</dd>")));
            html.push_str("</dl>");
        }
        Err(why) => missing(&mut html, "The details of this book cannot be had", why),
    }
    html.push_str("</section>\n<section><h2>Reviews</h2>\n");
    match &reviews {
        Ok(reviews) => shown(&mut html, reviews),
        Err(why) => missing(&mut html, "The reviews of this book cannot be had", why),
    }
    html.push_str("</section></main></body></html>\n");
    html
}

fn shown(html: &mut String, reviews: &Reviews) {
    for review in &reviews.reviews {
        put(html, format_args!("<blockquote><p>{}</p><cite>{}</cite>\n", text(&review.text), text(&review.reviewer)));
        match &review.stars {
            None => {}
            Some(Stars::Given { count, colour }) => {
                let count = (*count).min(5) as usize;
                put(html, format_args!("<div class=\"stars {}\">{}{}</div>", text(colour), "★".repeat(count), "☆".repeat(5 - count)));
            }
            Some(Stars::Unavailable(why)) => missing(html, "No stars", why),
        }
        html.push_str("</blockquote>\n");
    }
    put(html, format_args!("<footer>reviews {} from pod {}</footer>", text(&reviews.edition), text(&reviews.pod)));
}

fn missing(html: &mut String, what: &str, why: &str) {
    put(html, format_args!("<p class=\"missing\">{what}: {}</p>", text(why)));
}

fn put(html: &mut String, what: std::fmt::Arguments<'_>) {
    html.write_fmt(what).expect("a string takes what is written");
}

/// Text as text: what a service said is not markup.
fn text(raw: &str) -> String {
    raw.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::{self, Review};

    fn reviews(stars: Option<Stars>) -> Result<Reviews, String> {
        let review = Review { reviewer: "Reader1".into(), text: "a < b".into(), stars };
        Ok(Reviews { pod: "reviews-1".into(), edition: "v2".into(), reviews: vec![review] })
    }

    #[test]
    fn the_page_shows_what_there_is_and_says_what_is_missing() {
        let given = |count| Some(Stars::Given { count, colour: "red".into() });
        let refused = || Err::<Reviews, _>("connection reset".to_owned());
        let check = |html: String, shown: &[&str], not: &[&str]| {
            shown.iter().for_each(|part| assert!(html.contains(part), "{part:?} is not on the page: {html}"));
            not.iter().for_each(|part| assert!(!html.contains(part), "{part:?} is on the page: {html}"));
        };
        check(page(Ok(books::book()), reviews(given(4))), &["Where the Land Narrows", "stars red\">★★★★☆<", "a &lt; b", "reviews-1"], &["cannot be had", "a < b"]);
        check(page(Ok(books::book()), reviews(None)), &["Reader1"], &["★"]);
        // More stars than there are do not break the page.
        check(page(Ok(books::book()), reviews(given(900))), &["★★★★★<"], &["☆"]);
        check(page(Ok(books::book()), reviews(Some(Stars::Unavailable("<no>".into())))), &["No stars: &lt;no&gt;"], &["<no>"]);
        check(page(Err("timeout".into()), refused()), &["details of this book cannot be had: timeout", "connection reset"], &["Publisher"]);
    }
}
