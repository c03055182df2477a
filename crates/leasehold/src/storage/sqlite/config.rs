use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::url::{Url, has_invisible};

/// The lock file, and how it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    path: Option<PathBuf>,
    /// Whether the path that code gave has invisible characters. In a URL they are written as %XX, on purpose.
    has_invisible: bool,
    pub(super) synchronous: Synchronous,
    pub(super) allow_network_fs: bool,
}

/// How far each grant gets before it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Synchronous {
    /// To the operating system: it survives the death of any process.
    ///
    /// A power failure may erase the last grants. That does no harm: the restart ends every lease, and later tokens are
    /// larger by the wall clock.
    #[default]
    Normal,
    /// To the disk, so that tokens survive a power failure even if the wall clock is set back.
    Full,
}

impl Config {
    /// Returns a configuration for this file. The file and its directory are created if they are missing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let has_invisible = has_invisible(&path.to_string_lossy());
        Self { path: Some(path), has_invisible, ..Self::default() }
    }

    /// Sets how far each grant gets before it is answered.
    #[must_use]
    pub fn synchronous(self, synchronous: Synchronous) -> Self {
        Self { synchronous, ..self }
    }

    /// Accepts a file system that may be shared with other machines.
    ///
    /// Set this only if this machine alone uses it: on a file system that is shared, locks do not exclude.
    #[must_use]
    pub fn allow_network_fs(self, allow: bool) -> Self {
        Self { allow_network_fs: allow, ..self }
    }

    pub(crate) fn from_url(url: &Url) -> Result<Self> {
        let mut config = Self { path: path_of(url.file()?)?, ..Self::default() };
        url.options(&["synchronous", "allow_network_fs"], |option, value| {
            match (option, value) {
                ("synchronous", "normal") => config.synchronous = Synchronous::Normal,
                ("synchronous", "full") => config.synchronous = Synchronous::Full,
                ("allow_network_fs", "true") => config.allow_network_fs = true,
                ("allow_network_fs", "false") => config.allow_network_fs = false,
                _ => {
                    let valid = if option == "synchronous" { "normal, full" } else { "true, false" };
                    return Err(Error::invalid(format!(
                        "unknown value in the URL option=`{option}` valid=`{valid}`"
                    )));
                }
            }
            Ok(())
        })?;
        Ok(config)
    }

    /// Reads a URL: `sqlite:`, `sqlite:PATH` or `sqlite:///ABSOLUTE/PATH`. Does no I/O.
    ///
    /// # Errors
    ///
    /// `Invalid` if it is wrong. The text lists what is valid, and repeats no part of the URL.
    pub fn parse(url: &str) -> Result<Self> {
        match url.strip_prefix("sqlite:") {
            Some(rest) => Self::from_url(&Url::parse(rest)?),
            None => Err(Error::invalid("not the URL of a lock file; it begins with `sqlite:`")),
        }
    }

    /// Returns the path of the file: the given one, or the default in the state directory.
    ///
    /// The environment of this process determines the state directory.
    ///
    /// # Errors
    ///
    /// - `Invalid` if the given path has control characters, or a blank at an end.
    /// - `Unsupported` if no path was given and this account has no state directory.
    pub fn path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.path {
            if self.has_invisible {
                return Err(Error::invalid(format!(
                    "the path of the lock file has a control character, or a blank at an end; remove it path=`{}`",
                    path.to_string_lossy().escape_debug()
                )));
            }
            return Ok(path.clone());
        }
        let state = dirs::state_dir().or_else(dirs::data_local_dir);
        let state = state.ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "this account has no state directory; name a file, as in `sqlite:/var/lib/app/locks.db`",
            )
        })?;
        Ok(state.join("leasehold").join("locks.db"))
    }
}

/// Reads what follows the scheme: nothing, `relative/path`, `/absolute/path` or `///absolute/path`.
fn path_of(path: PathBuf) -> Result<Option<PathBuf>> {
    // The path is never repeated: it may be the URL of another storage, with a password.
    let wrong = |what: &str| {
        Err(Error::invalid(format!(
            "{what}; write `sqlite:PATH`, `sqlite:///ABSOLUTE/PATH`, or `sqlite:` for the default file"
        )))
    };
    let text = path.as_os_str().as_encoded_bytes();
    if text.is_empty() {
        return Ok(None);
    }
    if text.starts_with(b"//") && (!text.starts_with(b"///") || text.starts_with(b"////")) {
        return wrong("a lock file has no host");
    }
    if text == b":memory:" {
        return wrong("a lock file is shared, memory is not (that is `memory:`)");
    }
    if text.windows(3).any(|window| window == b"://") {
        return wrong("the path of a file has no `://` in it");
    }
    let names_a_file = !text.ends_with(b"/") && !text.ends_with(b"\\") && path.file_name().is_some();
    if text.contains(&0) || !names_a_file {
        return wrong("not the path of a file");
    }
    // One slash means the same as three.
    Ok(Some(if text.starts_with(b"/") { path.components().collect() } else { path }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<Config> {
        Config::from_url(&Url::parse(url.strip_prefix("sqlite:").expect("of this storage"))?)
    }

    #[test]
    fn urls_name_a_file_or_the_default_one() {
        let file = |path: &str| Config::new(path);
        let cases = [
            ("sqlite:", Config::default()),
            ("sqlite:a.db", file("a.db")),
            ("sqlite:a/b%20c.db", file("a/b c.db")),
            ("sqlite:/a/b.db", file("/a/b.db")),
            ("sqlite:///a/b.db", file("/a/b.db")),
            ("sqlite:a?synchronous=full", file("a").synchronous(Synchronous::Full)),
            ("sqlite:?allow_network_fs=true", Config::default().allow_network_fs(true)),
        ];
        for (url, expected) in cases {
            assert_eq!(config(url).expect(url), expected);
        }
        assert!(Config::default().path().expect("a home").ends_with("leasehold/locks.db"));
    }

    #[cfg(unix)]
    #[test]
    fn a_url_can_name_any_path() {
        use std::os::unix::ffi::OsStrExt as _;
        let expected = std::path::Path::new(std::ffi::OsStr::from_bytes(b"/a\xff/b"));
        assert_eq!(config("sqlite:/a%FF/b").expect("right").path().expect("given"), expected);
        assert_eq!(Config::parse("sqlite:/a%ff/b?synchronous=normal").expect("right"), Config::new(expected));
    }

    #[test]
    fn a_path_from_code_has_no_invisible_characters() {
        for path in ["/t/l.db\n", " /t/l.db", "/t/l.db ", "/t\0/l.db", "/t/l\r.db", "/t/l.db\u{a0}"] {
            let error = Config::new(path).path().expect_err(path);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{path:?}");
        }
        assert!(Config::new("/my files/l.db").path().is_ok());
        // In a URL, %0A is written on purpose.
        assert_eq!(
            config("sqlite:/t/l.db%0A").expect("meant").path().expect("meant"),
            std::path::Path::new("/t/l.db\n")
        );
    }

    #[test]
    fn wrong_urls_are_refused_and_not_repeated() {
        for url in [
            "sqlite://",
            "sqlite://host/a.db",
            "sqlite:////a.db",
            "sqlite::memory:",
            "sqlite:a/",
            "sqlite:..",
            "sqlite:a%00b",
            "sqlite:postgres://u:x@h",
            "sqlite:a?synchronous=off",
            "sqlite:a?synchronous",
            "sqlite:a?allow_network_fs=1",
            "sqlite:a?mode=ro",
        ] {
            let error = config(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            let rest = &url["sqlite:".len()..];
            assert!(rest.len() < 4 || !error.to_string().contains(rest), "{error}");
        }
    }
}
