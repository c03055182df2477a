use super::{Name, Token};

/// Where a page of a list ended: at the holder with this name and token. Ordered as lists are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Cursor {
    /// The lock.
    pub name: Name,
    /// The token of the holder.
    pub token: Token,
}

impl Cursor {
    /// Makes the cursor of the holder of `name` with that token.
    pub const fn new(name: Name, token: Token) -> Self {
        Self { name, token }
    }
}

/// Returns the smallest text that is larger than every text that begins with `prefix`, if there is one.
#[cfg(any(feature = "postgres", feature = "mongodb"))]
pub(super) fn successor(prefix: &str) -> Option<String> {
    let mut chars: Vec<_> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Skips the surrogates, which are no characters.
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(all(test, any(feature = "postgres", feature = "mongodb")))]
mod tests {
    use super::*;

    #[test]
    fn the_successor_is_above_every_text_with_the_prefix() {
        for prefix in ["a", "shop:", "é", "z\u{10ffff}", "\u{d7ff}", "\u{7f}"] {
            let next = successor(prefix).expect("there is one");
            for rest in ["", "a", "\u{10ffff}\u{10ffff}"] {
                assert!(format!("{prefix}{rest}").as_str() < next.as_str(), "{prefix:?} {rest:?} {next:?}");
            }
        }
        assert_eq!(successor(""), None);
        assert_eq!(successor("\u{10ffff}"), None);
    }
}
