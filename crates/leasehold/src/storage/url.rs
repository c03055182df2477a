//! Storage URLs: `scheme:rest?option=value`. Strict: whatever is not understood is an error that says what is.

use std::fmt;

use percent_encoding::percent_decode_str;

use super::AnyStorage;
use super::memory::Memory;
use crate::error::{Error, ErrorKind, Result};

/// Every scheme there is, with the feature that brings it; `None` is always there.
const SCHEMES: &[(&str, Option<&str>)] = &[("memory", None), ("sqlite", Some("sqlite"))];

/// What a URL names, checked as far as that goes without I/O.
pub(crate) enum Target {
    Memory(Memory),
    #[cfg(feature = "sqlite")]
    Sqlite(super::sqlite::Config),
}

/// Reads a URL. No I/O.
pub(crate) fn parse(text: &str) -> Result<Target> {
    let (scheme, rest) = text.split_once(':').ok_or_else(|| unknown("no scheme was given"))?;
    let url = Url::parse(rest)?;
    match scheme {
        "memory" => {
            url.options(&[], |_, _| Ok(()))?;
            Ok(Target::Memory(Memory::named(&url.path)))
        }
        #[cfg(feature = "sqlite")]
        "sqlite" => Ok(Target::Sqlite(super::sqlite::Config::from_url(&url)?)),
        _ => match SCHEMES.iter().find(|(known, _)| *known == scheme) {
            Some((_, Some(feature))) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "this program was built without that storage; enable leasehold's feature `{feature}`"
                ),
            )),
            _ => Err(unknown("unknown scheme")),
        },
    }
}

impl Target {
    /// Connects. Runs on the engine's runtime.
    pub(crate) async fn connect(self) -> Result<AnyStorage> {
        match self {
            Self::Memory(memory) => Ok(AnyStorage::new(memory)),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(config) => Ok(AnyStorage::new(super::sqlite::Sqlite::open(config).await?)),
        }
    }
}

/// The part of a URL after the scheme, decoded. Its `Debug` shows no values, which may be secrets.
pub(crate) struct Url {
    /// What stands before the `?`, percent-decoded.
    pub(crate) path: String,
    options: Vec<(String, String)>,
}

impl Url {
    fn parse(rest: &str) -> Result<Self> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let options = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        });
        Ok(Self { path: decode(path)?, options: options.collect::<Result<_>>()? })
    }

    /// Hands each option to `set`. One that is not in `known`, or comes twice, is an error that lists those.
    pub(crate) fn options(
        &self,
        known: &[&str],
        mut set: impl FnMut(&str, &str) -> Result<()>,
    ) -> Result<()> {
        let valid = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        for (i, (key, value)) in self.options.iter().enumerate() {
            let key_shown = key.escape_debug();
            if !known.contains(&key.as_str()) {
                return Err(Error::invalid(format!(
                    "unknown option in the URL option=`{key_shown}` valid=`{valid}`"
                )));
            }
            if self.options.iter().skip(i + 1).any(|(other, _)| other == key) {
                return Err(Error::invalid(format!(
                    "option given twice in the URL option=`{key_shown}` valid=`{valid}`"
                )));
            }
            set(key, value)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Url")
    }
}

fn decode(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| Error::invalid("the URL is not UTF-8 after percent-decoding"))
}

/// Never repeats the URL: what is not understood may still hold a password.
fn unknown(what: &str) -> Error {
    let known: Vec<_> = SCHEMES.iter().map(|(scheme, _)| format!("{scheme}:")).collect();
    Error::invalid(format!("{what}; a storage URL begins with one of: {}", known.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str) -> Error {
        match parse(url) {
            Ok(_) => panic!("{url} was accepted"),
            Err(error) => error,
        }
    }

    #[test]
    fn unknown_schemes_list_the_known_ones() {
        for url in ["", "nonsense", "mysql://u:S3CRET@h/", "redis://:S3CRET@h", "/tmp/x"] {
            let error = error(url);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("memory: sqlite:"), "{error}");
            assert!(!format!("{error:?} {error}").contains("S3CRET"), "{error}");
        }
    }

    #[cfg(not(feature = "sqlite"))]
    #[test]
    fn a_scheme_whose_feature_is_off_names_the_feature() {
        let error = error("sqlite:x");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("feature `sqlite`"), "{error}");
    }

    #[test]
    fn options_are_strict() {
        let text = error("memory:?ttl=5").to_string();
        assert!(
            text.contains("unknown option") && text.contains("option=`ttl`") && text.contains("valid=`none`")
        );
        let url = Url::parse("x?a=1&b=2&a=3").expect("reads");
        let text = url.options(&["a", "b"], |_, _| Ok(())).expect_err("twice").to_string();
        assert!(text.contains("twice") && text.contains("valid=`a, b`"), "{text}");
        assert_eq!(error("memory:%ff").kind(), ErrorKind::Invalid);
    }
}
