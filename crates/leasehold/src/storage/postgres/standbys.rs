//! Which standbys a commit waits for: the setting `synchronous_standby_names`, as the server reads it.

/// What a commit waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Synchronous {
    /// How many standbys confirm it.
    pub(super) count: usize,
    /// Those that may, by their `application_name`; `*` is any.
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
            // What the server would not have accepted covers nothing.
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

    /// Returns `true` if every standby that may be promoted has confirmed each commit: each of these that are there, and
    /// each that is named.
    pub(super) fn covers(&self, standbys: &[String]) -> bool {
        let named = |standby: &String| {
            self.names.iter().any(|name| name == ANY || name.eq_ignore_ascii_case(standby))
        };
        let mut listed: Vec<_> =
            self.names.iter().filter(|name| *name != ANY).map(|name| name.to_ascii_lowercase()).collect();
        listed.sort();
        listed.dedup();
        standbys.iter().all(named) && self.count >= std::cmp::max(listed.len(), standbys.len())
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
            // Two that call themselves the same.
            ("walreceiver", &["walreceiver", "walreceiver"], false),
            ("\"a b\"", &["a b"], true),
            ("\"a \"\"b\"\", c\"", &["a \"b\", c"], true),
            ("1 (\"first\")", &["first"], true),
            ("first", &["first"], true),
            ("any, first", &["any"], false),
            ("FIRST 2 (any, first)", &["any", "first"], true),
        ] {
            let standbys: Vec<_> = standbys.iter().map(|name| (*name).to_owned()).collect();
            let synchronous = Synchronous::read(setting).expect("it names one");
            assert_eq!(synchronous.covers(&standbys), covered, "{setting} {standbys:?}");
        }
        for setting in ["", " ", "()"] {
            assert_eq!(Synchronous::read(setting), None, "{setting}");
        }
    }
}
