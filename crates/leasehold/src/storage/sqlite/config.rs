use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::storage::url::Url;

/// Says which file to lock in, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    path: Option<PathBuf>,
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
        Self { path: Some(path.into()), ..Self::default() }
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
        let mut config = Self { path: path_of(&url.path)?, ..Self::default() };
        url.options(&["synchronous", "allow_network_fs"], |option, value| {
            match (option, value) {
                ("synchronous", "normal") => config.synchronous = Synchronous::Normal,
                ("synchronous", "full") => config.synchronous = Synchronous::Full,
                ("allow_network_fs", "true") => config.allow_network_fs = true,
                ("allow_network_fs", "false") => config.allow_network_fs = false,
                _ => {
                    let valid = if option == "synchronous" { "normal, full" } else { "true, false" };
                    return Err(Error::invalid(format!(
                        "unknown value in the URL option=`{option}` value=`{}` valid=`{valid}`",
                        value.escape_debug()
                    )));
                }
            }
            Ok(())
        })?;
        Ok(config)
    }

    /// The file, or the default one.
    pub(super) fn path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.path {
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
fn path_of(text: &str) -> Result<Option<PathBuf>> {
    let wrong = |what: &str| {
        Err(Error::invalid(format!(
            "{what}; write `sqlite:PATH`, `sqlite:///ABSOLUTE/PATH`, or `sqlite:` for the default file path=`{}`",
            text.escape_debug()
        )))
    };
    let path = match text.strip_prefix("//") {
        None => text,
        Some(absolute) if absolute.starts_with('/') && !absolute.starts_with("//") => absolute,
        Some(_) => return wrong("a lock file has no host"),
    };
    if path.is_empty() {
        return Ok(None);
    }
    if path == ":memory:" {
        return wrong("a lock file is shared, memory is not (that is `memory:`)");
    }
    let names_a_file = !path.ends_with(['/', '\\']) && Path::new(path).file_name().is_some();
    if path.contains('\0') || !names_a_file {
        return wrong("not the path of a file");
    }
    Ok(Some(path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::url::{Target, parse};

    fn config(url: &str) -> Result<Config> {
        match parse(url)? {
            Target::Sqlite(config) => Ok(config),
            _ => panic!("another storage"),
        }
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
            "sqlite:a?synchronous=off",
            "sqlite:a?synchronous",
            "sqlite:a?allow_network_fs=1",
            "sqlite:a?mode=ro",
        ] {
            assert_eq!(config(url).expect_err(url).kind(), ErrorKind::Invalid, "{url}");
        }
    }
}
