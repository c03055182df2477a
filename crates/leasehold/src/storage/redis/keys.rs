//! The names of keys and channels, and the slot of a key on a Cluster.

use std::sync::OnceLock;

use crate::storage::Name;

/// The names of keys and channels. All keys of one lock have the same slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    prefix: String,
    /// Whether the prefix contains `{` or `}`.
    braces: bool,
}

/// A key that belongs to a lock, besides its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Companion {
    /// A string: the last fencing token, and the holder.
    Record = b't' as isize,
    /// A sorted set of owners by ticket.
    Queue = b'q' as isize,
    /// A hash: the deadline of each waiter's entry, and its client.
    Waiters = b'w' as isize,
}

/// The character that no name contains, so that no lock has the key of another one's companion.
const NUL: char = '\0';
pub(super) const SLOTS: u16 = 16_384;

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), braces: prefix.contains(['{', '}']) }
    }

    /// Appends the key of a lock. Its value is a string, the owner, as for every library that locks with `SET NX PX`.
    pub(super) fn lock(&self, name: &Name, key: &mut String) {
        key.push_str(&self.prefix);
        key.push_str(name.as_str());
    }

    /// Appends the key of a companion of a lock.
    pub(super) fn companion(&self, name: &Name, what: Companion, key: &mut String) {
        if name.as_str().contains(['{', '}']) || self.braces {
            let mut lock = String::new();
            self.lock(name, &mut lock);
            // A hash tag around the lock would end at its first brace. A tag before it is chosen to have the same slot.
            let tag = tag_of(slot(lock.as_bytes()));
            key.push_str(&format!("{{{tag}}}{lock}"));
        } else {
            key.push('{');
            self.lock(name, key);
            key.push('}');
        }
        key.push(NUL);
        key.push(what as u8 as char);
    }

    pub(super) fn slot(&self, name: &Name) -> u16 {
        let mut lock = String::new();
        self.lock(name, &mut lock);
        slot(lock.as_bytes())
    }

    /// Returns the key of the epoch: the run id of the primary, and when it was first seen.
    pub(super) fn epoch(&self) -> String {
        format!("{}{NUL}epoch", self.prefix)
    }

    /// Returns the key of the marker of a server of a quorum.
    pub(super) fn marker(&self) -> String {
        format!("{}{NUL}marker", self.prefix)
    }

    /// Returns the key at which a server of a quorum keeps the vote counts of the others.
    pub(super) fn vote_counts(&self) -> String {
        format!("{}{NUL}others", self.prefix)
    }

    /// Returns the prefix of the channels. The id of a client follows.
    pub(super) fn channels(&self) -> String {
        format!("{}leasehold:", self.prefix)
    }

    /// Returns the pattern with which `SCAN` finds the records of names that begin with `prefix`, and a few others.
    pub(super) fn pattern(&self, prefix: &str) -> String {
        let literal = format!("{}{prefix}", self.prefix);
        let mut pattern = String::from("{*");
        for c in literal.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern + &format!("*{NUL}t")
    }

    /// Returns the name of the lock that has this record.
    pub(super) fn name_of(&self, record: &[u8]) -> Option<Name> {
        let tagged = std::str::from_utf8(record).ok()?.strip_suffix("\0t")?;
        let (tag, rest) = tagged.strip_prefix('{')?.split_once('}')?;
        let lock = if rest.is_empty() { tag } else { rest };
        let name = Name::new(lock.strip_prefix(&self.prefix)?).ok()?;
        let mut own = String::new();
        self.companion(&name, Companion::Record, &mut own);
        (own.as_bytes() == record).then_some(name)
    }
}

/// Returns the slot of a key, by the rules of the Redis Cluster specification.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|b| *b == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// Returns the smallest number whose digits have that slot.
fn tag_of(slot: u16) -> u32 {
    static TAGS: OnceLock<Vec<u32>> = OnceLock::new();
    let tags = TAGS.get_or_init(|| {
        let mut tags = vec![None; usize::from(SLOTS)];
        let mut left = tags.len();
        for number in 0_u32.. {
            let tag = &mut tags[usize::from(crc16(number.to_string().as_bytes()) % SLOTS)];
            if tag.is_none() {
                *tag = Some(number);
                left -= 1;
            }
            if left == 0 {
                break;
            }
        }
        tags.into_iter().flatten().collect()
    });
    tags[usize::from(slot)]
}

/// Computes CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = table();
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from(crc.to_be_bytes()[0] ^ byte)])
}

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let (mut i, mut start) = (0, 0_u16);
    while i < 256 {
        let (mut crc, mut bit) = (start, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
        start = start.wrapping_add(0x100);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).expect("valid")
    }

    fn all(keys: &Keys, name: &Name) -> [String; 4] {
        let companion = |what| {
            let mut key = String::new();
            keys.companion(name, what, &mut key);
            key
        };
        let mut lock = String::new();
        keys.lock(name, &mut lock);
        [lock, companion(Companion::Record), companion(Companion::Queue), companion(Companion::Waiters)]
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (a, b) in
            [("{user1000}.following", "user1000"), ("foo{bar}{zap}", "bar"), ("foo{{bar}}zap", "{bar")]
        {
            assert_eq!(slot(a.as_bytes()), slot(b.as_bytes()));
        }
        // An empty tag is no tag: the whole key is hashed.
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
    }

    #[test]
    fn the_keys_of_a_lock_share_its_slot_and_no_two_locks_share_a_key() {
        let names = [
            "a", "{", "}", "{}", "}{", "a{b}c", "{a}", "{{a}}", "{}a{b}", "a b", "é*?[", "{1}a", "a:t",
            "{a}:q",
        ];
        let mut seen = std::collections::HashSet::new();
        for prefix in ["", "shop:", "{x}", "{", "a}b{"] {
            let keys = Keys::new(prefix);
            for text in names {
                let [lock, record, queue, waiters] = all(&keys, &name(text));
                for key in [&record, &queue, &waiters] {
                    assert_eq!(slot(key.as_bytes()), slot(lock.as_bytes()), "{prefix} {text}");
                }
                assert_eq!(keys.name_of(record.as_bytes()), Some(name(text)), "{prefix} {text}");
                assert_eq!(keys.name_of(queue.as_bytes()), None);
                if prefix == "shop:" {
                    assert!([lock, record, queue, waiters].into_iter().all(|key| seen.insert(key)), "{text}");
                }
            }
        }
        assert_eq!(
            all(&Keys::new("shop:"), &name("a")),
            ["shop:a", "{shop:a}\0t", "{shop:a}\0q", "{shop:a}\0w"]
        );
        assert_eq!(Keys::new("other:").name_of(b"{shop:a}\0t"), None);
    }

    #[test]
    fn patterns_take_names_literally() {
        assert_eq!(Keys::new("s:").pattern("a*"), "{*s:a\\**\0t");
    }
}
