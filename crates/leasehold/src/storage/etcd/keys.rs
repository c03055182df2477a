//! The keys of locks, and what is in them.
//!
//! A lock has one key per owner that holds it or waits for it: `<prefix><name>/<owner>`. The oldest one holds. So do the
//! locks of etcd's own clients, whose last part is the id of a lease; see `README.md`.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::millis;
use crate::storage::{Name, Owner};

/// The keys under one prefix.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    prefix: String,
}

/// What is in the key of an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// The TTL of its last claim.
    pub(super) ttl: Duration,
    pub(super) label: Option<Arc<str>>,
}

/// What comes before the gates. No name and no prefix has a NUL in it, so none of these is the key of a lock.
const GATES: &str = "\0leasehold/";
/// What comes before the TTL in a value.
const VALUE: &str = "leasehold 1 ttl=";

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the range of the keys of a lock's owners. It includes the keys of locks whose names continue with a `/` and a
    /// hexadecimal digit: `a/1/<owner>` is between `a/1<the rest of an owner>` and `a/2<the rest>`.
    pub(super) fn range(&self, name: &Name) -> (Vec<u8>, Vec<u8>) {
        let key = |last: &str| format!("{}{}/{last}", self.prefix, name.as_str()).into_bytes();
        // `g` follows `f`.
        (key("0"), key("g"))
    }

    /// Returns `true` if no key of an owner of that lock follows the key.
    pub(super) fn is_behind(&self, key: &[u8], name: &str) -> bool {
        let key = key.strip_prefix(self.prefix.as_bytes()).unwrap_or(key);
        match key.strip_prefix(name.as_bytes()) {
            Some(rest) => rest >= b"/g".as_slice(),
            None => key > name.as_bytes(),
        }
    }

    /// Returns the range of all keys of locks whose names begin with `prefix`, from `from` on, which begins with it.
    pub(super) fn range_of_names(&self, prefix: &str, from: &str) -> (Vec<u8>, Vec<u8>) {
        let first = format!("{}{from}", self.prefix).into_bytes();
        (if first.is_empty() { vec![0] } else { first }, end_of(format!("{}{prefix}", self.prefix).into()))
    }

    /// Returns the key of an owner.
    pub(super) fn key(&self, name: &Name, owner: Owner) -> Vec<u8> {
        format!("{}{}/{}", self.prefix, name.as_str(), last_part(owner)).into()
    }

    /// Returns the key whose revision a claim under that lease compares; see `leases.rs`.
    pub(super) fn gate(&self, lease: i64) -> Vec<u8> {
        format!("{}{GATES}{lease:x}", self.prefix).into()
    }

    /// Returns a key that is read to see whether a server answers.
    pub(super) fn probe(&self) -> Vec<u8> {
        format!("{}{GATES}", self.prefix).into()
    }

    /// Returns `true` if that is the key of an owner of the lock, and neither of a lock with a longer name nor of another
    /// program.
    pub(super) fn is_of(&self, name: &Name, key: &[u8]) -> bool {
        Self::owner(key).is_some_and(|owner| self.key(name, owner) == key)
    }

    /// Returns the owner in a key of a lock; `None` if it is the key of something else.
    pub(super) fn owner(key: &[u8]) -> Option<Owner> {
        owner_of(key.rsplit(|byte| *byte == b'/').next()?)
    }

    /// Reads the key of a lock's owner: the lock and the owner. `None` if it is the key of something else.
    pub(super) fn parse(&self, key: &[u8]) -> Option<(Name, Owner)> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let (name, last) = key.rsplit_once('/')?;
        Some((Name::new(name).ok()?, owner_of(last.as_bytes())?))
    }
}

/// Returns how an owner is written. One that fits into 64 bits is the lease of a lock of etcd's own clients.
fn last_part(owner: Owner) -> String {
    let number = u128::from_be_bytes(owner.to_bytes());
    if u64::try_from(number).is_ok() { format!("{number:x}") } else { format!("{number:032x}") }
}

/// Reads the last part of a key, which must be as [`last_part`] writes it: each owner has one key.
fn owner_of(last: &[u8]) -> Option<Owner> {
    let text = std::str::from_utf8(last).ok()?;
    let owner = u128::from_str_radix(text, 16).ok().map(|number| Owner::from_bytes(number.to_be_bytes()))?;
    (last_part(owner) == text).then_some(owner)
}

/// Returns the end of the range of all keys that begin with that; a NUL means that there is none.
fn end_of(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return prefix;
        }
    }
    vec![0]
}

impl Value {
    pub(super) fn write(ttl: Duration, label: Option<&str>) -> Vec<u8> {
        let label = label.map(|label| format!("\n{label}")).unwrap_or_default();
        format!("{VALUE}{}{label}", millis(ttl)).into()
    }

    /// Reads a value; `None` if another program has written it.
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        let rest = std::str::from_utf8(value).ok()?.strip_prefix(VALUE)?;
        let (ttl, label) = rest.split_once('\n').map_or((rest, None), |(ttl, label)| (ttl, Some(label)));
        Some(Self { ttl: Duration::from_millis(ttl.parse().ok()?), label: label.map(Arc::from) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        Name::new(name).expect("valid")
    }

    #[test]
    fn a_key_belongs_to_one_lock() {
        let (keys, owner) = (Keys::new("p:"), Owner::random());
        for text in ["a", "a/", "a/b", "/", "//", "a/b/", "\u{10ffff}"] {
            let key = keys.key(&name(text), owner);
            assert_eq!(keys.parse(&key), Some((name(text), owner)));
            for other in ["a", "a/", "a/b", "/", "//", "a/b/"] {
                assert_eq!(keys.is_of(&name(other), &key), other == text, "{other} {text}");
            }
        }
        assert_eq!(keys.parse(&keys.gate(7)), None);
    }

    #[test]
    fn the_lease_of_another_client_is_an_owner() {
        let keys = Keys::new("");
        let owner = Keys::owner(b"a/694d93b5ff4b8a03").expect("an owner");
        assert_eq!(keys.key(&name("a"), owner), b"a/694d93b5ff4b8a03");
    }

    #[test]
    fn a_key_of_another_program_is_of_no_lock() {
        let keys = Keys::new("");
        for last in
            ["", "of another program", "backup", "0a", "A", "+1", " 1", "00000000000000000000000000000001"]
        {
            assert_eq!(Keys::owner(format!("a/{last}").as_bytes()), None, "{last}");
            assert!(!keys.is_of(&name("a"), format!("a/{last}").as_bytes()), "{last}");
        }
    }

    #[test]
    fn a_range_has_all_owners_and_few_other_keys() {
        let keys = Keys::new("p:");
        let (from, end) = keys.range(&name("a"));
        let is_within = |key: &[u8]| from.as_slice() <= key && key < end.as_slice();
        for owner in [Owner::from_bytes([0; 16]), Owner::from_bytes([255; 16]), Owner::random()] {
            let key = keys.key(&name("a"), owner);
            assert!(is_within(&key) && !keys.is_behind(&key, "a"));
            assert!(keys.is_behind(&keys.key(&name("b"), owner), "a"));
            assert!(keys.is_behind(&keys.key(&name("a/g"), owner), "a"));
            assert!(!keys.is_behind(&keys.key(&name("a-"), owner), "a"));
            assert!(!is_within(&keys.key(&name("a/order"), owner)));
        }
    }

    #[test]
    fn a_value_comes_back() {
        for label in [None, Some(""), Some("a\nb"), Some("ttl=5")] {
            let value = Value::read(&Value::write(Duration::from_millis(2_500), label)).expect("ours");
            assert_eq!((value.ttl, value.label.as_deref()), (Duration::from_millis(2_500), label));
        }
        assert_eq!(Value::read(b""), None);
    }

    #[test]
    fn a_range_has_all_names_with_a_prefix_and_no_others() {
        let keys = Keys::new("p:");
        let (from, end) = keys.range_of_names("a", "a");
        let within = |text: &str| {
            let key = keys.key(&name(text), Owner::random());
            from <= key && key < end
        };
        assert!(within("a") && within("a/b") && within("a\u{10ffff}") && !within("b") && !within("A"));
        assert_eq!(Keys::new("").range_of_names("", ""), (vec![0], vec![0]));
    }
}
