//! The scenarios. Each returns its figures: as JSON for one run, and combined by the comparison.

pub(crate) mod contend;
pub(crate) mod crowd;
pub(crate) mod cycles;
pub(crate) mod handover;
pub(crate) mod held;

/// One hold of a contended lock, on the clock that all processes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hold {
    granted: u64,
    released: u64,
    token: u64,
    by: usize,
}

/// The holds in the order of their grants, with checks for violations.
struct History(Vec<Hold>);

impl History {
    fn new(mut holds: Vec<Hold>) -> Self {
        holds.sort_unstable();
        Self(holds)
    }

    fn pairs(&self) -> impl Iterator<Item = (&Hold, &Hold)> {
        self.0.iter().zip(self.0.iter().skip(1))
    }

    /// Returns the times from the call of a release to the grant to another client.
    fn gaps(&self) -> Vec<u64> {
        let changes = self.pairs().filter(|(a, b)| a.by != b.by);
        changes.map(|(a, b)| b.granted.saturating_sub(a.released)).collect()
    }

    fn span(&self) -> u64 {
        let first = self.0.first().map_or(0, |first| first.granted);
        self.0.last().map_or(0, |last| last.released).saturating_sub(first)
    }

    /// Returns how many holds began before the release of the previous one.
    fn overlaps(&self) -> usize {
        self.pairs().filter(|(a, b)| b.granted < a.released).count()
    }

    /// Returns how many tokens are not larger than the previous one. Zero if there are no tokens.
    fn backwards(&self) -> usize {
        self.pairs().filter(|(a, b)| b.token <= a.token && a.token != 0).count()
    }
}

/// Returns a name that no other measurement on the same storage uses.
fn fresh(name: &str) -> String {
    format!("{name}/{}/{}", std::process::id(), crate::clock::now_ns())
}

/// Parses several numbers of a line.
fn numbers<const N: usize>(line: &str) -> crate::Result<[u64; N]> {
    let numbers = line.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    numbers.try_into().map_err(|_| format!("not {N} numbers line=`{line}`").into())
}
