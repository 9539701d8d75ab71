//! Making the live table fit the terminal: names are shortened first, then the columns go that say least. Pure.

/// The columns of the table, by their place.
pub const HEAD: [&str; 7] = ["SOURCE", "DESTINATION", "SERVICE", "ENCRYPTED", "OPEN", "BYTES", "VERDICT"];
const VERDICT: usize = 6;
/// In this order columns are left out: the service, open connections, bytes.
const LEAVE_OUT: [usize; 3] = [2, 4, 5];
/// Between two columns.
const GAP: usize = 2;
/// A verdict may be cut, but not below this: it begins with `allowed` or `refused`.
const VERDICT_MIN: usize = 16;

/// A table that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// The columns that are shown, and their widths.
    pub columns: Vec<(usize, usize)>,
    pub rows: Vec<[String; 7]>,
}

/// None if not even the narrowest form fits into `width`.
pub fn fit(rows: &[[String; 7]], width: usize) -> Option<Fitted> {
    let short: Vec<[String; 7]> = rows.iter().map(|row| std::array::from_fn(|at| if at < 2 { short_name(&row[at]) } else { row[at].clone() })).collect();
    let forms = std::iter::once((rows, 0)).chain((0..=LEAVE_OUT.len()).map(|left_out| (short.as_slice(), left_out)));
    forms.filter_map(|(rows, left_out)| with_columns(rows, &LEAVE_OUT[..left_out], width)).next()
}

fn with_columns(rows: &[[String; 7]], left_out: &[usize], width: usize) -> Option<Fitted> {
    let mut columns: Vec<(usize, usize)> = Vec::new();
    for at in (0..HEAD.len()).filter(|at| !left_out.contains(at)) {
        let widest = rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        columns.push((at, widest.max(HEAD[at].len())));
    }
    let fixed: usize = columns.iter().filter(|(at, _)| *at != VERDICT).map(|(_, wide)| wide + GAP).sum();
    let rest = width.checked_sub(fixed)?;
    let (_, verdict) = columns.last_mut()?;
    if rest < VERDICT_MIN.min(*verdict) {
        return None;
    }
    *verdict = (*verdict).min(rest);
    let cut_to = *verdict;
    let rows = rows.iter().map(|row| std::array::from_fn(|at| if at == VERDICT { cut(&row[at], cut_to) } else { row[at].clone() })).collect();
    Some(Fitted { columns, rows })
}

/// `shop/cart` of `ns/shop/sa/cart`; a caller without identity by its name (that it has none, another column says).
pub fn short_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        ["ns", namespace, "sa", account] => format!("{namespace}/{account}"),
        _ => name.trim_end_matches(" (no identity)").to_owned(),
    }
}

/// Says by its end that something is missing.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: &str, verdict: &str) -> [String; 7] {
        [source, "ns/shop/sa/db", "db.shop", "mTLS", "1", "3.6 kB", verdict].map(str::to_owned)
    }

    #[test]
    fn the_table_gives_up_what_says_least() {
        let rows = [row("ns/shop/sa/cart", "allowed by shop/db-for-cart-only"), row("outside/courier (no identity)", "refused: strict")];
        let shown = |width: usize| {
            fit(&rows, width).map(|fitted| {
                let heads: Vec<&str> = fitted.columns.iter().map(|(at, _)| HEAD[*at]).collect();
                assert!(fitted.columns.iter().map(|(_, wide)| wide + GAP).sum::<usize>() - GAP <= width);
                format!("{} | {} | {}", heads.join(" "), fitted.rows[1][0], fitted.rows[0][6])
            })
        };
        for (width, expected) in [
            (120, Some("SOURCE DESTINATION SERVICE ENCRYPTED OPEN BYTES VERDICT | outside/courier (no identity) | allowed by shop/db-for-cart-only")),
            (80, Some("SOURCE DESTINATION SERVICE ENCRYPTED OPEN BYTES VERDICT | outside/courier | allowed by shop…")),
            (76, Some("SOURCE DESTINATION ENCRYPTED OPEN BYTES VERDICT | outside/courier | allowed by shop/db-f…")),
            (60, Some("SOURCE DESTINATION ENCRYPTED VERDICT | outside/courier | allowed by shop/db…")),
            (50, None),
        ] {
            assert_eq!(shown(width).as_deref(), expected, "{width} columns");
        }
    }

    #[test]
    fn an_identity_is_shortened_and_a_name_is_not() {
        for (name, short) in [("ns/shop/sa/cart", "shop/cart"), ("outside/courier (no identity)", "outside/courier"), ("unknown", "unknown")] {
            assert_eq!(short_name(name), short);
        }
    }
}
