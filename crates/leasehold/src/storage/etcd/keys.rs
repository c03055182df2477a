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

    /// Returns the range of all keys under a lock, which includes those of locks whose names continue with a `/`.
    pub(super) fn range(&self, name: &Name) -> (Vec<u8>, Vec<u8>) {
        // `0` follows `/`.
        (format!("{}{name}/", self.prefix, name = name.as_str()).into(), {
            format!("{}{name}0", self.prefix, name = name.as_str()).into()
        })
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

    /// Returns `true` if that is the key of an owner of the lock, and not of a lock with a longer name.
    pub(super) fn is_of(&self, name: &Name, key: &[u8]) -> bool {
        let rest = key.strip_prefix(self.range(name).0.as_slice());
        rest.is_some_and(|last| !last.is_empty() && !last.contains(&b'/'))
    }

    /// Returns the owner in a key of a lock. It is made up if another program has written the key.
    pub(super) fn owner(key: &[u8]) -> Owner {
        let last = key.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        owner_of(last).unwrap_or_else(|| {
            let mixed = |sum: u128, byte: &u8| {
                (sum ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b)
            };
            let folded = last.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, mixed);
            Owner::from_bytes(folded.to_be_bytes())
        })
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

fn owner_of(last: &[u8]) -> Option<Owner> {
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let text = std::str::from_utf8(last)
        .ok()
        .filter(|_| (1..=32).contains(&last.len()) && last.iter().all(is_hex))?;
    u128::from_str_radix(text, 16).ok().map(|number| Owner::from_bytes(number.to_be_bytes()))
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
        let owner = Keys::owner(b"a/694d93b5ff4b8a03");
        assert_eq!(keys.key(&name("a"), owner), b"a/694d93b5ff4b8a03");
        assert_ne!(Keys::owner(b"a/of another program"), Keys::owner(b"a/of one more program"));
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
