//! The figures of several rounds as one Markdown table.

use std::collections::BTreeMap;
use std::fmt;

use crate::contestant::Contestant::{self, Leasehold, LeaseholdTask};
use crate::stats::ratio;

/// A table. Its rows are in the order of their first figure, and each has one figure per contestant and
/// round.
#[derive(Debug)]
pub(super) struct Table {
    /// The contestants. Each has a column of figures, and each rival one of ratios.
    all: Vec<Contestant>,
    rows: Vec<(String, Row)>,
}

type Row = BTreeMap<Contestant, Vec<f64>>;

impl Table {
    pub(super) fn new(all: Vec<Contestant>) -> Self {
        Self { all, rows: Vec::new() }
    }

    pub(super) fn add(&mut self, label: String, contestant: Contestant, figure: f64) {
        let known = self.rows.iter().position(|(known, _)| *known == label);
        let at = known.unwrap_or_else(|| {
            self.rows.push((label, Row::new()));
            self.rows.len() - 1
        });
        self.rows[at].1.entry(contestant).or_default().push(figure);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rivals: Vec<_> =
            self.all.iter().filter(|one| !matches!(one, Leasehold | LeaseholdTask)).collect();
        let names = self.all.iter().map(|one| format!(" {one} |")).collect::<String>();
        let ratios = rivals.iter().map(|rival| format!(" ÷ {rival} |")).collect::<String>();
        writeln!(f, "| median (min–max) |{names}{ratios}")?;
        writeln!(f, "|{}", "---|".repeat(1 + self.all.len() + rivals.len()))?;
        // Rows of one kind stand together, in any order of their first figures.
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|(label, _)| self.rows.iter().position(|(other, _)| kind(other) == kind(label)));
        for (label, row) in rows {
            let cells = self.all.iter().map(|one| format!(" {} |", cell(row.get(one)))).collect::<String>();
            let ratios =
                rivals.iter().map(|rival| format!(" {} |", against(row, **rival))).collect::<String>();
            writeln!(f, "| {label} |{cells}{ratios}")?;
        }
        Ok(())
    }
}

/// Returns the label without its number of workers.
fn kind(label: &str) -> String {
    label
        .split(", ")
        .filter(|part| !part.trim_end_matches('s').ends_with(" worker"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn cell(figures: Option<&Vec<f64>>) -> String {
    let Some(figures) = figures else { return "–".to_owned() };
    let Some(middle) = median(figures) else { return "–".to_owned() };
    let (low, high) = figures.iter().fold((f64::MAX, f64::MIN), |(low, high), figure| {
        (if *figure < low { *figure } else { low }, if *figure > high { *figure } else { high })
    });
    match figures.len() {
        1 => number(middle),
        _ => format!("{} ({}–{})", number(middle), number(low), number(high)),
    }
}

/// Returns the median of the ratios of Leasehold's figures to another contestant's, round by round.
fn against(row: &Row, other: Contestant) -> String {
    let (Some(ours), Some(theirs)) = (row.get(&Leasehold), row.get(&other)) else { return "–".to_owned() };
    let ratios: Vec<_> = ours.iter().zip(theirs).map(|(a, b)| ratio(*a, *b)).collect();
    median(&ratios).map_or_else(
        || "–".to_owned(),
        |median| if median < 0.1 { format!("{median:.4}") } else { format!("{median:.2}") },
    )
}

/// Returns the middle value, or the mean of the two middle ones.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().saturating_sub(1) / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// Formats a number with at least three digits and separated thousands.
fn number(value: f64) -> String {
    match value {
        _ if value.fract() == 0.0 && value < 1000.0 => format!("{value:.0}"),
        _ if value < 10.0 => format!("{value:.2}"),
        _ if value < 100.0 => format!("{value:.1}"),
        _ => {
            let digits = format!("{value:.0}");
            let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
            groups.join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contestant::Contestant::{Raw, Rslock};

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_row_shows_the_spread_and_the_ratios_of_the_rounds() {
        let mut table = Table::new(vec![Leasehold, LeaseholdTask, Rslock, Raw]);
        for (ours, raw) in [(2000.0, 1000.0), (3000.0, 1000.0), (10000.0, 20000.0)] {
            table.add("cycles".to_owned(), Leasehold, ours);
            table.add("cycles".to_owned(), Raw, raw);
        }
        let text = table.to_string();
        let row = "| cycles | 3,000 (2,000–10,000) | – | – | 1,000 (1,000–20,000) | – | 2.00 |";
        assert_eq!(text.lines().nth(2), Some(row));
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(
            [0.0, 1.234, 12.34, 1234.5, 1_234_567.0].map(number),
            ["0", "1.23", "12.3", "1,234", "1,234,567"]
        );
    }
}
