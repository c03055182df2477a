//! Every storage there is. A new one is its folder, its feature in `Cargo.toml`, and one line of [`STORAGES`].

use std::pin::Pin;

use super::url::Url;
use super::{AnyStorage, Storage};
use crate::error::{Error, ErrorKind, Result};

/// A storage as URLs name it.
struct Entry {
    /// What its URLs begin with.
    schemes: &'static [&'static str],
    /// The feature that compiles it; `None` if it is always there.
    feature: Option<&'static str>,
    /// Reads a URL, without I/O; `None` if the feature is off.
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
];

/// Lists what a storage URL may begin with, also where the feature of that storage is off.
pub fn schemes() -> impl Iterator<Item = &'static str> {
    STORAGES.iter().flat_map(|entry| entry.schemes).copied()
}

/// Returns the statements that make what the storage of a URL needs, for those who keep the schema themselves; `None`
/// if that storage needs none. Makes no request.
///
/// # Errors
///
/// - [`Invalid`](ErrorKind::Invalid) if the URL is wrong; the text lists what is known.
/// - [`Unsupported`](ErrorKind::Unsupported) if the feature for that scheme is off.
pub fn schema(url: &str) -> Result<Option<String>> {
    Ok(parse(url)?.schema)
}

/// What a URL names, checked as far as that goes without I/O.
pub(crate) struct Target {
    connect: Box<dyn FnOnce() -> Connecting + Send>,
    schema: Option<String>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<AnyStorage>> + Send>>;

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

impl Target {
    /// Names a storage by how to connect to it.
    pub(crate) fn new<S: Storage, F: Future<Output = Result<S>> + Send + 'static>(
        connect: impl FnOnce() -> F + Send + 'static,
    ) -> Self {
        let connect = || -> Connecting {
            let connecting = connect();
            Box::pin(async move { connecting.await.map(AnyStorage::new) })
        };
        Self { connect: Box::new(connect), schema: None }
    }

    /// Adds what makes the schema.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "few storages have a schema"))]
    pub(crate) fn schema(self, schema: String) -> Self {
        Self { schema: Some(schema), ..self }
    }

    /// Connects. Runs on the engine's runtime.
    pub(crate) async fn connect(self) -> Result<AnyStorage> {
        (self.connect)().await
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
    fn what_is_not_seen_is_refused_in_every_part() {
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
        // What is in the midst is seen, and what is written is meant.
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
    fn every_scheme_is_of_one_storage() {
        let mut all: Vec<_> = schemes().collect();
        all.sort_unstable();
        let listed = all.len();
        all.dedup();
        assert_eq!(all.len(), listed);
    }
}
