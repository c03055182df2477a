//! The standbys that a commit waits for: the setting `synchronous_standby_names`, as the server reads it.

/// The standbys that a commit waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Synchronous {
    /// How many standbys must confirm a commit.
    pub(super) count: usize,
    /// The standbys that may confirm it, by their `application_name`; `*` is any.
    names: Vec<String>,
}

const ANY: &str = "*";

impl Synchronous {
    /// Reads the setting: `[FIRST | ANY] n (a, "b c", *)`, or names alone, which is `FIRST 1`. `None` if it is empty.
    pub(super) fn read(setting: &str) -> Option<Self> {
        let words = words(setting);
        let mut words = words.as_slice();
        if let [Word::Bare(method), Word::Bare(_), rest @ ..] = words
            && ["first", "any"].iter().any(|known| method.eq_ignore_ascii_case(known))
            && rest.first() == Some(&Word::Open)
        {
            words = &words[1..];
        }
        let mut count = 1;
        if let [Word::Bare(number), Word::Open, ..] = words {
            // The server does not accept another number; it would cover nothing.
            count = number.parse().unwrap_or(0);
            words = &words[1..];
        }
        let names = words.iter().filter_map(|word| match word {
            Word::Bare(name) | Word::Quoted(name) => Some(name.clone()),
            Word::Open => None,
        });
        let names: Vec<_> = names.collect();
        (!names.is_empty()).then_some(Self { count, names })
    }

    /// Returns `true` if every standby that may be promoted has confirmed each commit: each that is connected (`standbys`),
    /// and each that is named. `receivers` are connected, too, and may confirm a commit in place of a standby.
    pub(super) fn covers(&self, standbys: &[String], receivers: &[String]) -> bool {
        let is_listed = |one: &String| self.names.iter().any(|name| name.eq_ignore_ascii_case(one));
        let is_named = |one: &String| is_listed(one) || self.names.iter().any(|name| name == ANY);
        let mut listed: Vec<_> =
            self.names.iter().filter(|name| *name != ANY).map(|name| name.to_ascii_lowercase()).collect();
        listed.sort();
        listed.dedup();
        let connected = || standbys.iter().chain(receivers).filter(|one| is_named(one));
        let is_away = |name: &&String| !connected().any(|one| one.eq_ignore_ascii_case(name));
        // Any named one may be among those that confirm, so all of them have to.
        let confirming = connected().count() + listed.iter().filter(is_away).count();
        // If only receivers confirm, no standby has the commit.
        let is_kept = standbys.iter().any(is_named)
            || listed.iter().any(|name| is_away(&name))
            || receivers.iter().all(|one| !is_named(one));
        standbys.iter().all(is_named) && is_kept && self.count >= confirming
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Bare(String),
    Quoted(String),
    Open,
}

fn words(setting: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut chars = setting.chars().peekable();
    while let Some(first) = chars.next() {
        match first {
            '(' => words.push(Word::Open),
            '"' => {
                let mut name = String::new();
                while let Some(c) = chars.next() {
                    if c == '"' && chars.next_if_eq(&'"').is_none() {
                        break;
                    }
                    name.push(c);
                }
                words.push(Word::Quoted(name));
            }
            c if c == ',' || c == ')' || c.is_ascii_whitespace() => {}
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| !(c.is_ascii_whitespace() || "(),\"".contains(*c))) {
                    word.push(c);
                }
                words.push(Word::Bare(word));
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_covers_what_each_commit_waits_for() {
        for (setting, standbys, covered) in [
            ("*", &[][..], true),
            ("*", &["a"], true),
            ("*", &["a", "b"], false),
            ("a", &["a"], true),
            ("A", &["a"], true),
            ("a", &["b"], false),
            ("a", &["a", "b"], false),
            ("a, b", &["a"], false),
            ("FIRST 1 (a, b)", &["a", "b"], false),
            ("first 2 (a, b)", &["a", "b"], true),
            ("2 (a, b)", &["a"], true),
            ("2(a,b)", &["a", "b"], true),
            ("ANY 1 (a, b)", &["a", "b"], false),
            ("ANY 1 (a, b)", &["a"], false),
            ("ANY 2 (a, b)", &["a", "b"], true),
            ("ANY 2 (a, b)", &["a", "b", "c"], false),
            ("any 2 (a, b, c)", &["a", "b"], false),
            ("ANY 1 (a)", &["a"], true),
            ("ANY 2 (*)", &["a", "b"], true),
            ("ANY 2 (*)", &["a", "b", "c"], false),
            // Two standbys of the same name.
            ("walreceiver", &["walreceiver", "walreceiver"], false),
            ("\"a b\"", &["a b"], true),
            ("\"a \"\"b\"\", c\"", &["a \"b\", c"], true),
            ("1 (\"first\")", &["first"], true),
            ("first", &["first"], true),
            ("any, first", &["any"], false),
            ("FIRST 2 (any, first)", &["any", "first"], true),
            // A named standby is not connected, and another one confirms in its place.
            ("ANY 1 (a, *)", &["b"], false),
            ("ANY 1 (a, *)", &["a"], true),
            ("2 (a, *)", &["b"], true),
            ("ANY 2 (a, b)", &["a", "a"], false),
        ] {
            let standbys: Vec<_> = standbys.iter().map(|name| (*name).to_owned()).collect();
            let synchronous = Synchronous::read(setting).expect("it names one");
            assert_eq!(synchronous.covers(&standbys, &[]), covered, "{setting} {standbys:?}");
        }
        // A backup, an archive or a subscriber.
        for (setting, standbys, receivers, covered) in [
            ("*", &["a"][..], &["r"][..], false),
            ("ANY 1 (*)", &["a"], &["r"], false),
            ("ANY 2 (*)", &["a"], &["r"], true),
            ("a", &["a"], &["r", "r"], true),
            ("ANY 1 (a, r)", &["a"], &["r"], false),
            ("ANY 2 (a, r)", &["a"], &["r"], true),
            ("ANY 2 (a, r)", &[], &["r"], true),
            ("ANY 1 (a, \"*\")", &["a"], &["r"], false),
            ("r", &[], &["r"], false),
            ("*", &[], &["r"], false),
            ("r", &["a"], &["r"], false),
            ("a", &[], &["r"], true),
        ] {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            let synchronous = Synchronous::read(setting).expect("it names one");
            let (standbys, receivers) = (owned(standbys), owned(receivers));
            assert_eq!(
                synchronous.covers(&standbys, &receivers),
                covered,
                "{setting} {standbys:?} {receivers:?}"
            );
        }
        for setting in ["", " ", "()"] {
            assert_eq!(Synchronous::read(setting), None, "{setting}");
        }
    }
}
