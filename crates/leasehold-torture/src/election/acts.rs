//! What the replicas have done, as their logs tell, and what it shows.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use super::table::Measured;
use crate::clock;
use crate::event::{Ev, Event};

/// An act of a leader, or the begin or the end of its work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act {
    pub(super) t: u64,
    pub(super) w: i64,
    pub(super) term: u64,
}

/// Everything that the replicas have done so far.
pub(super) struct Acts {
    directory: PathBuf,
    /// How much of each log was read.
    read: HashMap<PathBuf, u64>,
    acts: Vec<Act>,
    begins: Vec<Act>,
    ends: Vec<Act>,
    failures: Vec<String>,
}

impl Acts {
    pub(super) fn new(directory: PathBuf) -> Self {
        let (acts, begins, ends) = (Vec::new(), Vec::new(), Vec::new());
        Self { directory, read: HashMap::new(), acts, begins, ends, failures: Vec::new() }
    }

    /// Reads what the logs have more than before.
    pub(super) fn read(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.file_name().is_none_or(|name| !name.to_string_lossy().starts_with("worker-")) {
                continue;
            }
            let offset = self.read.entry(path.clone()).or_default();
            let (mut file, mut text) = (File::open(&path)?, Vec::new());
            file.seek(SeekFrom::Start(*offset))?;
            file.read_to_end(&mut text)?;
            // The last line may not be whole yet.
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            *offset += u64::try_from(whole).unwrap_or(u64::MAX);
            for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let event = serde_json::from_slice(line)?;
                self.note(event);
            }
        }
        for list in [&mut self.acts, &mut self.begins, &mut self.ends] {
            list.sort_by_key(|act| act.t);
        }
        Ok(())
    }

    fn note(&mut self, event: Event) {
        let act = Act { t: event.t, w: event.w, term: event.tok.unwrap_or(0) };
        match event.ev {
            Ev::Use => self.acts.push(act),
            Ev::Claim if event.tok.is_some() => self.begins.push(act),
            Ev::Lost => self.ends.push(act),
            Ev::Fail => self.failures.push(format!("replica {} gave up: {}", event.w, event.why)),
            _ => {}
        }
    }

    /// Waits until a leader acts after `since`, and returns that act.
    pub(super) fn await_act(&mut self, since: u64, within: u64) -> io::Result<Act> {
        let until = clock::now() + within;
        loop {
            self.read()?;
            if let Some(act) = self.acts.last().filter(|act| act.t > since) {
                return Ok(*act);
            }
            if clock::now() > until {
                return Err(io::Error::other(format!(
                    "no leader acts; history: {}",
                    self.directory.display()
                )));
            }
            clock::pause(Duration::from_millis(10));
        }
    }

    /// Measures what a fault that hit the leader of a term has done.
    pub(super) fn measure(&self, term: u64, began: u64, ended: u64) -> Measured {
        let first = self.acts.iter().rposition(|act| act.t < began).unwrap_or(0);
        let after = self.acts.iter().position(|act| act.t > ended).unwrap_or(self.acts.len() - 1);
        let pauses = self.acts[first..=after].windows(2).map(|pair| pair[1].t - pair[0].t);
        let next = self.begins.iter().find(|begin| begin.term > term);
        let end = self.ends.iter().find(|end| end.term == term);
        Measured {
            began,
            ended,
            without_leader: pauses.max().unwrap_or(0),
            next: next.map(|next| next.t),
            stopped: end.map(|end| end.t),
        }
    }

    /// Returns what is wrong: a term that is not larger than the one before, or an act of a leader after one of the next
    /// leader. Acts at excused times do not count.
    pub(super) fn check(&self, excused: &[(u64, u64)]) -> Vec<String> {
        let mut wrong = self.failures.clone();
        let is_excused = |t: u64| excused.iter().any(|(from, to)| (*from..=*to).contains(&t));
        for pair in
            self.begins.windows(2).filter(|pair| pair[0].term >= pair[1].term && !is_excused(pair[1].t))
        {
            wrong.push(format!("after {:?} began {:?}", pair[0], pair[1]));
        }
        let mut newest = Act { t: 0, w: 0, term: 0 };
        for act in &self.acts {
            if act.term < newest.term && !is_excused(act.t) {
                wrong.push(format!("two led: {act:?} after {newest:?}"));
            } else {
                newest = *act;
            }
        }
        wrong
    }

    /// Returns how many terms and acts there were.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.begins.len(), self.acts.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acts(list: &[(u64, i64, u64)]) -> Acts {
        let mut acts = Acts::new(PathBuf::new());
        acts.acts = list.iter().map(|&(t, w, term)| Act { t, w, term }).collect();
        for act in acts.acts.clone() {
            if acts.begins.iter().all(|begin| begin.term != act.term) {
                acts.begins.push(act);
            }
        }
        acts
    }

    #[test]
    fn an_older_leader_that_still_acts_is_found() {
        assert!(acts(&[(1, 0, 5), (2, 0, 5), (3, 1, 6)]).check(&[]).is_empty());
        let both = acts(&[(1, 0, 5), (2, 1, 6), (3, 0, 5), (4, 1, 6)]);
        assert_eq!(both.check(&[]).len(), 1);
        assert!(both.check(&[(3, 3)]).is_empty());
    }

    #[test]
    fn a_term_that_does_not_grow_is_found() {
        assert_eq!(acts(&[(1, 0, 7), (2, 1, 6)]).check(&[]).len(), 2);
    }

    #[test]
    fn the_time_without_a_leader_is_the_longest_pause_around_a_fault() {
        let list = [(10, 0, 5), (13, 0, 5), (90, 1, 6), (95, 1, 6), (300, 1, 6)];
        let measured = acts(&list).measure(5, 20, 92);
        assert_eq!((measured.without_leader, measured.next), (77, Some(90)));
    }
}
