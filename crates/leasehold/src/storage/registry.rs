//! The registry of all storages. A new storage consists of its folder, its feature in `Cargo.toml`, and one line of
//! [`STORAGES`].

use super::AnyStorage;
use super::target::Target;
use super::url::Url;
use crate::error::{Error, ErrorKind, Result};

/// A storage as URLs name it.
struct Entry {
    /// The schemes of its URLs.
    schemes: &'static [&'static str],
    /// The feature that compiles it; `None` if it is always compiled.
    feature: Option<&'static str>,
    /// The function that reads a URL, without I/O; `None` if the feature is off.
    read: Option<fn(&str, Url) -> Result<Target>>,
}

macro_rules! entry {
    ($($module:ident)::+, $schemes:expr) => {
        Entry { schemes: &$schemes, feature: None, read: Some(super::$($module::)+target) }
    };
    ($($module:ident)::+, $feature:tt, $schemes:expr) => {
        Entry {
            schemes: &$schemes,
            feature: Some($feature),
            #[cfg(feature = $feature)]
            read: Some(super::$($module::)+target),
            #[cfg(not(feature = $feature))]
            read: None,
        }
    };
}

#[rustfmt::skip]
const STORAGES: &[Entry] = &[
    entry!(memory, ["memory"]),
    entry!(sqlite, "sqlite", ["sqlite"]),
    entry!(redis, "redis", ["redis", "rediss", "redis+unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"]),
    entry!(redis::quorum, "redis", ["redis+quorum", "rediss+quorum"]),
    entry!(postgres, "postgres", ["postgres", "postgresql"]),
    entry!(mongodb, "mongodb", ["mongodb", "mongodb+srv"]),
    entry!(etcd, "etcd", ["etcd", "etcds"]),
];

/// Lists the schemes of all storage URLs, including those of storages whose feature is off.
pub fn schemes() -> impl Iterator<Item = &'static str> {
    STORAGES.iter().flat_map(|entry| entry.schemes).copied()
}

/// Returns the statements that create the schema of the storage that a URL names; `None` if it needs no schema.
///
/// They are for operators who maintain the schema themselves. Makes no request.
///
/// # Errors
///
/// - [`Invalid`](ErrorKind::Invalid) if the URL is wrong. The text lists what is valid.
/// - [`Unsupported`](ErrorKind::Unsupported) if the feature for that scheme is off.
pub fn schema(url: &str) -> Result<Option<String>> {
    Ok(parse(url)?.into_schema())
}

impl AnyStorage {
    /// Connects to the storage that a URL names, as [`Locks::connect`](crate::Locks::connect) does, but without an
    /// engine. This is for programs that call or wrap a storage themselves.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the URL is wrong. The text lists what is valid.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable) if the storage cannot be reached.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the feature for that scheme is off, or if locks would not be
    ///   safe in that storage.
    ///
    /// # Cancel safety
    ///
    /// If this future is dropped, nothing keeps running.
    pub async fn connect(url: &str) -> Result<Self> {
        parse(url)?.connect().await
    }
}

/// Reads a URL. Makes no request.
pub(crate) fn parse(url: &str) -> Result<Target> {
    let (scheme, rest) = url.split_once(':').ok_or_else(|| unknown("no scheme was given"))?;
    let rest = Url::parse(rest)?;
    let entry = STORAGES.iter().find(|entry| entry.schemes.contains(&scheme));
    let entry = entry.ok_or_else(|| unknown("unknown scheme"))?;
    match (entry.read, entry.feature) {
        (Some(read), _) => read(scheme, rest),
        (None, feature) => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "this program was built without that storage; enable leasehold's feature `{}`",
                feature.unwrap_or_default()
            ),
        )),
    }
}

/// Returns the error for a URL of no known storage. It does not repeat the URL, which may hold a password.
fn unknown(what: &str) -> Error {
    let known: Vec<_> = schemes().map(|scheme| format!("{scheme}:")).collect();
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
        for url in ["", "nonsense", "mysql://u:S3CRET@h/", "mongo://:S3CRET@h", "/tmp/x"] {
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
    fn invisible_characters_are_refused_in_every_part() {
        let places = [
            "^memory:x",
            "memory:^x",
            "memory:x^",
            "^sqlite:/t/l.db",
            "sqlite:^/t/l.db",
            "sqlite:/t/l.db^",
            "sqlite:/t/l.db^?synchronous=full",
            "sqlite:/t/l.db?^synchronous=full",
            "sqlite:/t/l.db?synchronous^=full",
            "sqlite:/t/l.db?synchronous=^full",
            "sqlite:/t/l.db?synchronous=full^",
            "sqlite:///t/l.db^",
            "sqlite:^///t/l.db",
            "redis://^h/0",
            "redis://h^/0",
            "redis://h:6379^/0",
            "redis://h/0^",
            "redis://^u:S3CRET@h/0",
            "redis://u^:S3CRET@h/0",
            "redis://u:^S3CRET@h/0",
            "redis://u:S3CRET^@h/0",
            "redis://h/0?prefix=a^",
            "redis+unix:/run/r.sock^",
            "redis+sentinel://h,^i/main",
            "redis+cluster://h,i^",
            "redis+quorum://h,^i,j",
            "postgres://u:S3CRET^@h/db",
            "postgres://^u:S3CRET@h/db",
            "postgres://h^/db",
            "postgres://h/db^",
            "postgres://h/^db",
            "postgres://h/db?application_name=a^",
        ];
        for unseen in [
            "\n", "\r\n", "\t", " ", "\u{a0}", "\u{2028}", "\u{2003}", "\u{feff}", "\u{200b}", "\u{85}",
            "\u{7f}",
        ] {
            for place in places {
                let url = place.replace('^', unseen);
                let error = error(&url);
                assert_eq!(error.kind(), ErrorKind::Invalid, "{url:?}");
                assert!(!format!("{error:?} {error}").contains("S3CRET"), "{error}");
            }
        }
        // A blank between other characters is visible, and %XX is written on purpose.
        for url in ["memory:a b", "memory:a%0A", "memory:%20"] {
            assert!(parse(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn options_are_strict() {
        let text = error("memory:?ttl=5").to_string();
        assert!(
            text.contains("unknown option") && text.contains("number=`1`") && text.contains("valid=`none`")
        );
        assert_eq!(error("memory:%ff").kind(), ErrorKind::Invalid);
    }

    #[test]
    fn every_scheme_belongs_to_one_storage() {
        let mut all: Vec<_> = schemes().collect();
        all.sort_unstable();
        let listed = all.len();
        all.dedup();
        assert_eq!(all.len(), listed);
    }
}
