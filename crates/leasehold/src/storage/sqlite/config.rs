use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::url::{Url, has_unseen};

/// Says which file to lock in, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    path: Option<PathBuf>,
    /// Whether code gave a path with characters that are not seen. A URL that has them written as %XX means them.
    unseen: bool,
    pub(super) synchronous: Synchronous,
    pub(super) allow_network_fs: bool,
}

/// How hard each grant is pushed to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Synchronous {
    /// Survives the death of any process. A power failure may forget the last grants, which does no harm:
    /// it ends every lease, and tokens grow past it by the wall clock.
    #[default]
    Normal,
    /// Waits for the disk on every grant, so that tokens survive a power failure whatever the wall clock does.
    Full,
}

impl Config {
    /// Locks in this file. It and its directory are made if they are missing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let unseen = has_unseen(&path.to_string_lossy());
        Self { path: Some(path), unseen, ..Self::default() }
    }

    /// Sets how hard each grant is pushed to the disk.
    #[must_use]
    pub fn synchronous(self, synchronous: Synchronous) -> Self {
        Self { synchronous, ..self }
    }

    /// Accepts a file system that is, or may be, shared with other machines. Only for one that is not:
    /// locks on a shared one exclude nobody.
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

    /// Reads a URL: `sqlite:`, `sqlite:PATH` or `sqlite:///ABSOLUTE/PATH`. No I/O.
    ///
    /// # Errors
    ///
    /// `Invalid` if it is wrong; the text says what is known, and repeats none of it.
    pub fn parse(url: &str) -> Result<Self> {
        match url.strip_prefix("sqlite:") {
            Some(rest) => Self::from_url(&Url::parse(rest)?),
            None => Err(Error::invalid("not the URL of a lock file; it begins with `sqlite:`")),
        }
    }

    /// Returns the path of the file: the one that was given, or the default one in the state directory, where the
    /// environment of this process says that it is.
    ///
    /// # Errors
    ///
    /// `Unsupported` if none was given and this account has no state directory.
    pub fn path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.path {
            if self.unseen {
                return Err(Error::invalid(format!(
                    "the path of the lock file has a control character, or a blank at an end; take it away path=`{}`",
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

/// `sqlite:` · `sqlite:relative/path` · `sqlite:/absolute/path` · `sqlite:///absolute/path`
fn path_of(path: PathBuf) -> Result<Option<PathBuf>> {
    // Never repeats the path: what is not understood may hold the password of another storage's URL.
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
    fn any_path_of_a_file_can_be_written() {
        use std::os::unix::ffi::OsStrExt as _;
        let expected = std::path::Path::new(std::ffi::OsStr::from_bytes(b"/a\xff/b"));
        assert_eq!(config("sqlite:/a%FF/b").expect("right").path().expect("given"), expected);
        assert_eq!(Config::parse("sqlite:/a%ff/b?synchronous=normal").expect("right"), Config::new(expected));
    }

    #[test]
    fn a_path_from_code_has_no_unseen_characters() {
        for path in ["/t/l.db\n", " /t/l.db", "/t/l.db ", "/t\0/l.db", "/t/l\r.db", "/t/l.db\u{a0}"] {
            let error = Config::new(path).path().expect_err(path);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{path:?}");
        }
        assert!(Config::new("/my files/l.db").path().is_ok());
        // Whoever writes it so means it.
        assert_eq!(
            config("sqlite:/t/l.db%0A").expect("meant").path().expect("meant"),
            std::path::Path::new("/t/l.db\n")
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
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
