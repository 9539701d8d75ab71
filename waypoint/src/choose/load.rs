//! Pure: how requests are shared among levels of preference and groups of places when endpoints are out.

/// Above 1: a level gives requests away only when it has lost more than a quarter of itself (the field's 1.4).
pub const OVERPROVISION: f64 = 1.4;

/// The share of each level, by how many of its endpoints may be taken; all 0 where none may be, anywhere.
pub fn of_levels(levels: impl IntoIterator<Item = (usize, usize)>) -> Vec<f64> {
    let health: Vec<f64> = levels.into_iter().map(|(available, total)| health(available, total)).collect();
    let sum: f64 = health.iter().sum();
    if sum == 0.0 {
        return vec![0.0; health.len()];
    }
    // Where all together are too few, what is there is shared in proportion.
    let scale = if sum < 1.0 { sum.recip() } else { 1.0 };
    let mut left: f64 = 1.0;
    let give = |health: f64| {
        let share = (health * scale).min(left).max(0.0);
        left -= share;
        share
    };
    health.into_iter().map(give).collect()
}

/// How much of its share a group or level can bear, 0 to 1.
pub fn health(available: usize, total: usize) -> f64 {
    if total == 0 { 0.0 } else { (available as f64 / total as f64 * OVERPROVISION).min(1.0) }
}

/// Which of the shares a chance from 0 to 1 falls on; `None` when all are 0.
pub fn fall(shares: &[f64], chance: f64) -> Option<usize> {
    let total: f64 = shares.iter().sum();
    let mut left = chance * total;
    let mut last = None;
    for (at, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
        last = Some(at);
        if left < *share {
            return last;
        }
        left -= share;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_gives_away_what_it_cannot_bear() {
        for (levels, expected) in [
            (vec![(10, 10), (10, 10)], vec![1.0, 0.0]),
            (vec![(8, 10), (10, 10)], vec![1.0, 0.0]), // 0.8 * 1.4 > 1
            (vec![(5, 10), (10, 10)], vec![0.7, 0.3]),
            (vec![(0, 10), (10, 10)], vec![0.0, 1.0]),
            (vec![(1, 10), (1, 10)], vec![0.5, 0.5]),
            (vec![(1, 10), (3, 10)], vec![0.25, 0.75]),
            (vec![(5, 10), (1, 10), (10, 10)], vec![0.7, 0.14, 0.16]),
            (vec![(0, 10), (0, 0)], vec![0.0, 0.0]),
            (vec![(0, 0), (1, 1)], vec![0.0, 1.0]),
            (vec![], vec![]),
        ] {
            let shares = of_levels(levels.clone());
            assert!(shares.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9), "{levels:?}: {shares:?}, not {expected:?}");
        }
    }

    #[test]
    fn chance_falls_on_shares() {
        assert_eq!(fall(&[0.0, 0.25, 0.75], 0.0), Some(1));
        assert_eq!(fall(&[0.0, 0.25, 0.75], 0.24), Some(1));
        assert_eq!(fall(&[0.0, 0.25, 0.75], 0.26), Some(2));
        assert_eq!(fall(&[0.5, 0.5, 0.0], 1.0), Some(1), "never on nothing");
        assert_eq!(fall(&[0.0, 0.0], 0.5), None);
    }
}
