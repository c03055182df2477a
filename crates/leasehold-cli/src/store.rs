//! The storage's URL: where it comes from, and how the command of `run` gets it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::{env, fmt};

use leasehold::storage;
use leasehold::storage::sqlite::Config;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::args::Global;
use crate::exit::{Failure, Result};
use crate::store_file;

pub(crate) const VARIABLE: &str = "LEASEHOLD_STORE";
/// The value for the command of `run --hide-store`. Without a value, a `leasehold` in it would lock in the default file.
pub(crate) const HIDDEN: &str = "hidden:";
const DEFAULT: &str = "sqlite:";
/// The URL options that name files, of all storages. MongoDB reads its options in any case.
const FILES: [&str; 9] = [
    "ca",
    "cert",
    "key",
    "passfile",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "tlsCAFile",
    "tlsCertificateKeyFile",
];
/// The characters that are encoded in the path of a file.
const SPECIAL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The URL of a storage. It may contain a password, so it is shown nowhere.
#[derive(Clone)]
pub(crate) struct Store(String);

impl Store {
    /// Finds the URL: `--store`, `--store-file`, `$LEASEHOLD_STORE`, or the default file.
    pub(crate) fn find(global: &Global) -> Result<Self> {
        let store = Self::given(global)?;
        if store.0 == HIDDEN {
            return Err(Failure::usage(format!(
                "the `leasehold run --hide-store` around this command does not say which storage it uses; give --store or --store-file variable=`{VARIABLE}`"
            )));
        }
        if store.scheme() == "memory" {
            return Err(Failure::usage(
                "memory: lives in one process only, so the command line cannot lock with it; use sqlite:",
            ));
        }
        Ok(store)
    }

    fn given(global: &Global) -> Result<Self> {
        if let Some(url) = &global.store {
            return Ok(Self(url.clone()));
        }
        if let Some(path) = &global.store_file {
            return store_file::read(path, global.store_file_any_mode).map(Self);
        }
        match env::var_os(VARIABLE).filter(|url| !url.is_empty()) {
            None => Ok(Self(DEFAULT.to_owned())),
            Some(url) => {
                let url = url.into_string();
                url.map(Self).map_err(|_| {
                    Failure::usage(format!("the storage's URL is not UTF-8 variable=`{VARIABLE}`"))
                })
            }
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.0
    }

    /// Returns a URL that names the same storage in any working directory and any environment, for the command of `run`.
    /// Fails if there is none: the command would lock elsewhere.
    pub(crate) fn portable(&self) -> Result<String> {
        if self.scheme() == "sqlite" {
            let file = Config::parse(&self.0)?.path()?;
            let real = resolved(absolute(&file)?);
            let as_written = self.0.starts_with("sqlite:/") && real == file;
            return Ok(if as_written { self.0.clone() } else { self.with_file(&real) });
        }
        self.with_absolute_options()
    }

    /// Returns the URL of another file, with the same options.
    fn with_file(&self, file: &Path) -> String {
        let file = percent_encode(file.as_os_str().as_bytes(), SPECIAL);
        match self.0.split_once('?') {
            Some((_, options)) => format!("sqlite:{file}?{options}"),
            None => format!("sqlite:{file}"),
        }
    }

    /// Returns the URL with absolute paths in the options that name files.
    fn with_absolute_options(&self) -> Result<String> {
        let Some((place, options)) = self.0.split_once('?') else { return Ok(self.0.clone()) };
        let options = options.split('&').map(|option| {
            let (name, file) = option.split_once('=').unwrap_or((option, ""));
            let (name, file) = (percent_decode_str(name).decode_utf8_lossy(), decode(file));
            // For libpq, `system` is no file.
            let is_file = FILES.iter().any(|known| known.eq_ignore_ascii_case(&name))
                && (&*name, file.as_os_str()) != ("sslrootcert", OsStr::new("system"));
            if !is_file || file.as_os_str().is_empty() || file.is_absolute() {
                return Ok(option.to_owned());
            }
            let file = absolute(&file)?;
            let file = file.to_str().ok_or_else(|| {
                Failure::usage(format!(
                    "the command could not find a file that the storage's URL names, because the working directory's name is not UTF-8; name it by an absolute path option=`{name}`"
                ))
            })?;
            Ok(format!("{name}={}", percent_encode(file.as_bytes(), SPECIAL)))
        });
        Ok(format!("{place}?{}", options.collect::<Result<Vec<_>>>()?.join("&")))
    }

    /// Returns the part of the URL that may be shown: the scheme, and the path if the storage is a file.
    pub(crate) fn shown(&self) -> String {
        match Config::parse(&self.0).and_then(|config| config.path()) {
            Ok(file) => format!("sqlite:{}", file.display()),
            Err(_) => self.scheme().to_owned(),
        }
    }

    /// Returns the scheme, if it is a known one. No other part of a URL is certain to contain no secret.
    pub(crate) fn scheme(&self) -> &'static str {
        let scheme = self.0.split(':').next().unwrap_or_default();
        storage::schemes().find(|known| *known == scheme).unwrap_or("unknown")
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({}:…)", self.scheme())
    }
}

/// Returns a path as an absolute one.
fn absolute(file: &Path) -> Result<PathBuf> {
    if file.is_absolute() {
        return Ok(file.to_owned());
    }
    let cwd = env::current_dir().map_err(|error| {
        Failure::usage(format!(
            "the storage's URL names a file below the working directory, which is not there any more; name it by an absolute path error=`{error}`"
        ))
    })?;
    Ok(cwd.join(file))
}

/// Resolves the symbolic links on the way to a file, because the command may change them, as a deployment does. The file
/// and some of its directories need not exist yet.
fn resolved(file: PathBuf) -> PathBuf {
    let real = file.ancestors().skip(1).find_map(|directory| {
        let rest = file.strip_prefix(directory).ok()?;
        Some(directory.canonicalize().ok()?.join(rest))
    });
    real.unwrap_or(file)
}

fn decode(text: &str) -> PathBuf {
    PathBuf::from(OsString::from_vec(percent_decode_str(text).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_file_is_passed_on_as_an_absolute_one() {
        let cwd = env::current_dir().expect("exists");
        let cwd = cwd.to_str().expect("UTF-8");
        let portable = |url: &str| Store(url.into()).portable().expect("there is one");
        assert_eq!(
            portable("sqlite:a/b%20%3f?synchronous=full"),
            format!("sqlite:{cwd}/a/b%20%3F?synchronous=full")
        );
        for same in [
            "sqlite:/a",
            "sqlite:///a%20b?synchronous=full",
            "redis://:pw@h",
            "rediss://h?ca=/a&key=",
            "rediss://h?ca=%2Fa",
            "postgresql://h/d?sslrootcert=system&sslkey=&schema=key",
            "postgresql://h/d?sslrootcert=%73ystem",
        ] {
            assert_eq!(portable(same), same);
        }
        assert_eq!(
            portable("rediss://h/0?prefix=key=&c%61=%63a.pem&cert=/c&key=a/k%26"),
            format!("rediss://h/0?prefix=key=&ca={cwd}/ca.pem&cert=/c&key={cwd}/a/k%26")
        );
        assert_eq!(
            portable("postgres://h/d?sslrootcert=ca.pem&sslcert=/c&sslkey=k&passfile=p&host=h"),
            format!(
                "postgres://h/d?sslrootcert={cwd}/ca.pem&sslcert=/c&sslkey={cwd}/k&passfile={cwd}/p&host=h"
            )
        );
        assert_eq!(
            portable("mongodb://h/d?tlsCAFile=ca.pem&tlscertificatekeyfile=k"),
            format!("mongodb://h/d?tlsCAFile={cwd}/ca.pem&tlscertificatekeyfile={cwd}/k")
        );
        let default = portable("sqlite:?synchronous=full");
        assert!(
            default.starts_with("sqlite:/") && default.ends_with("/leasehold/locks.db?synchronous=full"),
            "{default}"
        );
        assert!(Store("sqlite://host/x".into()).portable().is_err());
    }

    #[test]
    fn debug_shows_the_scheme_only() {
        assert_eq!(format!("{:?}", Store("redis://:S3CRET@h".into())), "Store(redis:…)");
        assert_eq!(format!("{:?}", Store("S3CRET:x".into())), "Store(unknown:…)");
        let postgres = Store("postgres://S3CRET:S3CRET@h/S3CRET?password=S3CRET&sslpassword=S3CRET".into());
        assert_eq!(
            (format!("{postgres:?}"), postgres.shown()),
            ("Store(postgres:…)".into(), "postgres".into())
        );
        let sentinels = Store("rediss+sentinel://S3CRET:S3CRET@h/S3CRET?sentinel_password=S3CRET".into());
        assert_eq!(
            (format!("{sentinels:?}"), sentinels.shown()),
            ("Store(rediss+sentinel:…)".into(), "rediss+sentinel".into())
        );
    }
}
