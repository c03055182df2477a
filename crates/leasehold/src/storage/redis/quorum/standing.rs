//! Whose votes count: those of servers that still know what they have voted.
//!
//! How a server is configured says nothing about what it knows: it may come back without its volume, from an old copy, as
//! a replica that was promoted behind its address, or be flushed while it runs. So each server has a **marker** of ours,
//! written for one life of it (one run, one database), in which it counts how often it has taken locks; and what it has
//! counted is told to the others in the second step of each acquire, before that is granted. Then, of a server `j`:
//!
//! | its marker | it votes |
//! |---|---|
//! | is of this life | yes |
//! | is of another run, and so many others know of no higher count that one of them must know the highest | yes: it has everything. But only if it keeps every write: else all may have lost the same, in one power cut |
//! | is of another run, and nobody can say, or others know of a higher count | when every lease is over |
//! | is missing, and so many others know of no vote of it, and of fewer members than there are | yes: it is new |
//! | is missing, and so is that of every server that answers, a majority | yes: all is new |
//! | is missing otherwise, or of another database | when every lease is over |
//!
//! Those others are `N - majority + 1`: every grant has told a majority of all, so all but at most `majority - 1` of the
//! others. That all is right as long as no more than a minority forgets something while a lease lasts.

use std::cmp::max;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::ballot::majority;
use super::nodes::{LONGEST, Nodes};
use crate::error::Result;
use crate::storage::Finding;
use crate::storage::redis::request::Answer;

/// Whether a server's vote counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does.
    Votes,
    /// Not before every lease is over that it may have forgotten.
    Waits,
    /// Its marker is missing, or not of this life.
    Unmarked,
}

/// Why a server's vote counts, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Votes,
    /// It was restarted, and none could vouch for what it has.
    Restarted,
    /// It has forgotten what it had.
    Blank,
}

/// What a server keeps of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) kind: Kind,
    /// What it is called; another name for each time that it has forgotten.
    pub(super) name: String,
    pub(super) run_id: String,
    pub(super) database: u32,
    /// How often it has taken locks under that name.
    pub(super) taken: u64,
    /// The longest TTL that any client promises.
    pub(super) longest: Duration,
}

/// A marker to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) taken: u64,
    /// For how long its time has run already, and for how long it runs in all.
    pub(super) age: Duration,
    pub(super) span: Duration,
    pub(super) longest: Duration,
}

/// What a server knows of itself and of the others.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) standing: Standing,
    pub(super) marker: Option<Marker>,
    /// The marker as it stands there.
    pub(super) text: String,
    /// How often others have taken locks, as far as it was told.
    pub(super) others: HashMap<String, u64>,
    /// For how long it does not vote yet.
    pub(super) left: Duration,
    pub(super) run_id: String,
    pub(super) database: u32,
    /// Whether it keeps every write through a restart.
    pub(super) keeps: bool,
    /// For how long it has been running, at least.
    pub(super) up: Duration,
}

impl Standing {
    pub(super) fn read(answer: &mut Answer<'_>) -> Result<Self> {
        match answer.integer()? {
            0 => Ok(Self::Votes),
            1 => Ok(Self::Waits),
            2 => Ok(Self::Unmarked),
            _ => Err(answer.senseless()),
        }
    }
}

impl Kind {
    /// The word in a marker.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Votes => "-",
            Self::Restarted => "r",
            Self::Blank => "b",
        }
    }
}

impl Marker {
    /// Reads what the scripts write.
    pub(super) fn read(text: &str) -> Option<Self> {
        let words: Vec<_> = text.split(' ').collect();
        let [kind, name, run_id, database, taken, _since, _span, longest] = words[..] else { return None };
        let kind = [Kind::Votes, Kind::Restarted, Kind::Blank].into_iter().find(|one| one.word() == kind)?;
        Some(Self {
            kind,
            name: name.to_owned(),
            run_id: run_id.to_owned(),
            database: database.parse().ok()?,
            taken: taken.parse().ok()?,
            longest: Duration::from_millis(longest.parse().ok()?),
        })
    }
}

/// Reads words `name=count`.
pub(super) fn read_counts(text: &str) -> HashMap<String, u64> {
    let words = text.split(' ').filter_map(|word| word.split_once('='));
    words.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
}

impl Known {
    /// Whether what it says of others can be relied on.
    fn vouches(&self) -> bool {
        self.standing == Standing::Votes
            || self.marker.as_ref().is_some_and(|m| m.kind != Kind::Blank && m.database == self.database)
    }

    /// Says whether its vote counts, and from when on.
    pub(super) fn finding(&self, place: &str) -> Finding {
        match self.standing {
            Standing::Votes => Finding::good("vote", format!("it knows what it has voted server=`{place}`")),
            _ => {
                let left = self.left;
                let text = "it may have forgotten locks, and does not vote until every lease is over";
                Finding::warning("vote", format!("{text} server=`{place}` left=`{left:.0?}`"))
            }
        }
    }
}

/// Says which markers to write, of what the servers know; `longest` is the longest TTL that this client promises.
fn decide(seen: &[Option<Known>], longest: Duration) -> Vec<Option<Mark>> {
    let needed = seen.len() - majority(seen.len()) + 1;
    let answered = seen.iter().flatten().count();
    let all_new =
        answered >= majority(seen.len()) && seen.iter().flatten().all(|known| known.text.is_empty());
    let marks = seen.iter().enumerate().map(|(j, known)| {
        let known = known.as_ref().filter(|known| known.standing != Standing::Votes)?;
        let others =
            || seen.iter().enumerate().filter(|(i, _)| *i != j).filter_map(|(_, other)| other.as_ref());
        let vouchers: Vec<_> = others().filter(|other| other.vouches()).collect();
        let told = |name: &str| vouchers.iter().filter_map(|other| other.others.get(name)).max().copied();
        let own = known.marker.as_ref().filter(|marker| marker.database == known.database);
        let longest = others()
            .filter_map(|other| other.marker.as_ref())
            .chain(&known.marker)
            .fold(longest, |longest, marker| max(longest, marker.longest));
        let mark = |kind, name: &str, taken, age| {
            let name = name.to_owned();
            Some(Mark { kind, name, taken, age, span: longest, longest })
        };
        let votes = |name: &str, taken| {
            // Without a volume it is new each time that it starts, and so may be all of them.
            if known.keeps {
                mark(Kind::Votes, name, taken, Duration::ZERO)
            } else {
                mark(Kind::Blank, &known.run_id, 0, known.up)
            }
        };
        match own {
            Some(own) if own.kind != Kind::Blank => {
                let missed = told(&own.name).is_some_and(|count| count > own.taken);
                if missed {
                    mark(Kind::Blank, &known.run_id, 0, known.up)
                } else if known.keeps && vouchers.len() >= needed {
                    mark(Kind::Votes, &own.name, own.taken, Duration::ZERO)
                } else if known.standing == Standing::Unmarked {
                    mark(Kind::Restarted, &own.name, own.taken, known.up)
                } else {
                    None
                }
            }
            own => {
                let waits = known.standing == Standing::Waits;
                if own.is_none() && known.marker.is_some() {
                    // Of another database, which was swapped in a moment ago.
                    return mark(Kind::Blank, &known.run_id, 0, Duration::ZERO);
                }
                let voted = told(&known.run_id);
                let members: BTreeSet<_> = vouchers
                    .iter()
                    .flat_map(|other| {
                        other.others.keys().chain(other.marker.iter().map(|marker| &marker.name))
                    })
                    .collect();
                let has_seat = match voted {
                    Some(count) => count == 0,
                    None => members.len() < seen.len(),
                };
                if all_new || (vouchers.len() >= needed && has_seat) {
                    return if waits && !known.keeps { None } else { votes(&known.run_id, 0) };
                }
                // What was in this life was forgotten now; what was before it, when it ended.
                let age = if voted.is_some() { Duration::ZERO } else { known.up };
                if waits { None } else { mark(Kind::Blank, &known.run_id, 0, age) }
            }
        }
    });
    marks.collect()
}

/// Finds out whose votes count, and marks those servers of which it is not known. Never takes long.
pub(super) async fn tend(nodes: &Arc<Nodes>) {
    for node in &nodes.all {
        node.take_unmarked();
    }
    let (sent, longest) = (nodes.clock.now(), nodes.ttl_max);
    let until = sent.after(LONGEST);
    let mut answers = nodes.ask(|node| Some(async move { node.visit(longest).await }));
    let mut seen: Vec<_> = nodes.all.iter().map(|_| None).collect();
    while let Some((server, answer)) = answers.next(until).await {
        seen[server] = answer.ok();
    }
    let marks = decide(&seen, longest);
    // A majority must know who takes part before its vote counts: then nobody takes it for new once it has voted.
    let new = |mark: &&Mark| mark.kind == Kind::Votes && mark.taken == 0;
    let names: Vec<_> = marks.iter().flatten().filter(new).map(|mark| format!("{}=0", mark.name)).collect();
    let names = Arc::new(names.join(" "));
    let until = nodes.clock.now().after(LONGEST);
    let mut told = 0;
    if !names.is_empty() {
        let mut answers = nodes.ask(|node| {
            let names = Arc::clone(&names);
            seen[node.index].is_some().then_some(async move { node.remember(&names).await })
        });
        while let Some((_, answer)) = answers.next(until).await {
            told += usize::from(answer.is_ok());
        }
    }
    let is_told = told >= majority(nodes.len());
    let mut answers = nodes.ask(|node| {
        let mark = marks[node.index].clone().filter(|mark| is_told || !new(&mark))?;
        let known = seen[node.index].clone()?;
        Some(async move { node.mark(&known, &mark, sent).await })
    });
    while answers.next(until).await.is_some() {}
}

/// Does so in the background, if a server has said that its vote does not count, or its marker was never looked at.
pub(super) fn tend_soon(nodes: &Arc<Nodes>) {
    if !nodes.all.iter().any(|node| node.is_unmarked()) || nodes.tending.swap(true, Ordering::Relaxed) {
        return;
    }
    let nodes = Arc::clone(nodes);
    tokio::spawn(async move {
        tend(&nodes).await;
        tokio::time::sleep(PAUSE).await;
        nodes.tending.store(false, Ordering::Relaxed);
    });
}

/// The servers are not asked again earlier.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const UP: Duration = Duration::from_secs(5);

    /// A server of which nothing is known: it has no marker.
    fn blank(run_id: &str) -> Known {
        Known {
            standing: Standing::Unmarked,
            marker: None,
            text: String::new(),
            others: HashMap::new(),
            left: Duration::ZERO,
            run_id: run_id.into(),
            database: 0,
            keeps: true,
            up: UP,
        }
    }

    /// A server in its run, with a marker that was written in another one, perhaps, and what it knows of others.
    fn marked(run_id: &str, of: &str, taken: u64, others: &[(&str, u64)]) -> Known {
        let longest = 60_000;
        let text = format!("- {of} {of} 0 {taken} 0 {longest} {longest}");
        Known {
            standing: if run_id == of { Standing::Votes } else { Standing::Unmarked },
            marker: Marker::read(&text),
            text,
            others: others.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            ..blank(run_id)
        }
    }

    /// What the first of three is marked as, and the age of that.
    fn first(seen: [Option<Known>; 3]) -> Option<(Kind, Duration)> {
        decide(&seen, UP).remove(0).map(|mark| (mark.kind, mark.age))
    }

    const NEW: Option<(Kind, Duration)> = Some((Kind::Votes, Duration::ZERO));
    const FORGOT: Option<(Kind, Duration)> = Some((Kind::Blank, UP));

    #[test]
    fn all_are_new_where_none_that_answers_has_a_marker() {
        assert_eq!(first([Some(blank("a")), Some(blank("b")), Some(blank("c"))]), NEW);
        assert_eq!(first([Some(blank("a")), Some(blank("b")), None]), NEW);
        assert_eq!(first([Some(blank("a")), None, None]), FORGOT, "one is no majority");
        let volatile = Known { keeps: false, ..blank("a") };
        assert_eq!(
            first([Some(volatile), Some(blank("b")), Some(blank("c"))]),
            FORGOT,
            "it is empty each time"
        );
    }

    #[test]
    fn who_has_no_marker_is_new_only_if_there_is_a_seat_for_it() {
        let others =
            |told: &[(&str, u64)]| [Some(marked("b", "b", 3, told)), Some(marked("c", "c", 3, told))];
        let with = |told: &[(&str, u64)]| {
            let [b, c] = others(told);
            first([Some(blank("a")), b, c])
        };
        assert_eq!(with(&[("b", 3), ("c", 3)]), NEW, "two members of three");
        assert_eq!(with(&[("a", 0), ("b", 3), ("c", 3)]), NEW, "another client marks it just now");
        assert_eq!(with(&[("0", 3), ("b", 3), ("c", 3)]), FORGOT, "it was another member");
        let now = Some((Kind::Blank, Duration::ZERO));
        assert_eq!(
            with(&[("a", 1), ("b", 3), ("c", 3)]),
            now,
            "it has voted in this very run, and was flushed"
        );
        let [b, _] = others(&[("b", 3)]);
        assert_eq!(first([Some(blank("a")), b, None]), FORGOT, "the one that is away may know more");
    }

    #[test]
    fn who_was_restarted_has_all_that_the_others_know_of_it_or_waits() {
        let with = |own: Known, count| {
            let told = [("0", count)];
            first([Some(own), Some(marked("b", "b", 3, &told)), Some(marked("c", "x", 3, &[]))])
        };
        let restarted = || marked("a", "0", 7, &[]);
        assert_eq!(with(restarted(), 7), NEW);
        assert_eq!(with(restarted(), 8), FORGOT, "an old copy");
        let waits = Some((Kind::Restarted, UP));
        assert_eq!(with(Known { keeps: false, ..restarted() }, 7), waits, "all may have lost the same");
        assert_eq!(
            first([Some(restarted()), Some(marked("b", "b", 3, &[("0", 7)])), None]),
            waits,
            "nobody can say"
        );
        assert_eq!(first([Some(restarted()), Some(marked("b", "b", 3, &[])), Some(blank("c"))]), waits);
    }

    #[test]
    fn the_wait_is_as_long_as_any_client_may_hold() {
        let longest = |known: Known, longest| Known {
            marker: known.marker.map(|marker| Marker { longest, ..marker }),
            ..known
        };
        let told = [("0", 1), ("b", 1), ("c", 1)];
        let others = [longest(marked("b", "b", 3, &told), DAY), marked("c", "c", 3, &told)].map(Some);
        let [b, c] = others;
        let mark = decide(&[Some(blank("a")), b, c], UP).remove(0).expect("marked");
        assert_eq!((mark.kind, mark.span), (Kind::Blank, DAY));
    }

    #[test]
    fn another_database_that_was_swapped_in_forgets_now() {
        let swapped = Known { database: 1, ..marked("a", "a", 3, &[]) };
        let swapped = Known { standing: Standing::Unmarked, ..swapped };
        let mark = first([Some(swapped), Some(marked("b", "b", 3, &[])), Some(marked("c", "c", 3, &[]))]);
        assert_eq!(mark, Some((Kind::Blank, Duration::ZERO)));
    }
}
