//! Which storage: where its URL comes from, and how it is passed on.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::{env, fmt};

use crate::args::Global;
use crate::exit::{Exit, Failure, Result};

pub(crate) const VARIABLE: &str = "LEASEHOLD_STORE";
const DEFAULT: &str = "sqlite:";

/// The URL of a storage. May contain a password, so it is shown nowhere.
#[derive(Clone)]
pub(crate) struct Store(String);

impl Store {
    /// Finds the URL: `--store`, `--store-file`, `$LEASEHOLD_STORE`, or the default file.
    pub(crate) fn find(global: &Global) -> Result<Self> {
        let store = Self::given(global)?;
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
            return read(path).map(Self);
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

    /// The same storage as seen from any working directory: what the command of `run` gets.
    pub(crate) fn anywhere(&self) -> String {
        let cwd = env::current_dir().ok();
        let Some(cwd) = cwd.as_deref().and_then(Path::to_str) else { return self.0.clone() };
        let cwd = cwd.replace('%', "%25").replace('?', "%3F").replace('&', "%26");
        let Some(rest) = self.0.strip_prefix("sqlite:") else { return self.with_files_in(&cwd) };
        if rest.is_empty() || rest.starts_with(['/', '?']) {
            return self.0.clone();
        }
        format!("sqlite:{cwd}/{rest}")
    }

    /// The same URL, its options that name files made absolute.
    fn with_files_in(&self, cwd: &str) -> String {
        let Some((place, options)) = self.0.split_once('?') else { return self.0.clone() };
        let options = options.split('&').map(|option| match option.split_once('=') {
            // A word of libpq's, and no file.
            Some(("sslrootcert", "system")) => option.to_owned(),
            Some((
                name @ ("ca" | "cert" | "key" | "passfile" | "sslcert" | "sslkey" | "sslrootcert"),
                file,
            )) if !file.starts_with(['/', '%']) && !file.is_empty() => {
                format!("{name}={cwd}/{file}")
            }
            _ => option.to_owned(),
        });
        format!("{place}?{}", options.collect::<Vec<_>>().join("&"))
    }

    /// What of the URL can be shown: the kind of storage, and the path where that is a file.
    pub(crate) fn shown(&self) -> String {
        let scheme = self.scheme();
        match self.0.strip_prefix("sqlite:") {
            // The options may hold what is meant for another kind of storage.
            Some(rest) => format!("{scheme}:{}", rest.split('?').next().unwrap_or_default()),
            None => scheme.to_owned(),
        }
    }

    /// The kind of storage, if it is one: the only part of a URL that can hold no secret.
    pub(crate) fn scheme(&self) -> &'static str {
        const KNOWN: [&str; 16] = [
            "sqlite",
            "memory",
            "redis",
            "rediss",
            "redis+unix",
            "redis+sentinel",
            "rediss+sentinel",
            "redis+cluster",
            "rediss+cluster",
            "redis+quorum",
            "rediss+quorum",
            "postgres",
            "postgresql",
            "mongodb",
            "mongodb+srv",
            "etcd",
        ];
        let scheme = self.0.split(':').next().unwrap_or_default();
        KNOWN.into_iter().find(|known| *known == scheme).unwrap_or("unknown")
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({}:…)", self.scheme())
    }
}

/// Reads the URL from a file, which nobody else may read.
fn read(path: &Path) -> Result<String> {
    let shown = path.display();
    let refuse = |text: String| Failure::new(Exit::Usage, format!("{text} path=`{shown}`"));
    let unreadable =
        |error| refuse(format!("cannot read the storage's URL; check --store-file error=`{error}`"));
    let mut file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(refuse(format!(
            "others can read this file, which may hold a password; run `chmod 600` on it mode=`{:03o}`",
            mode & 0o777
        )));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    let url = text.trim();
    if url.is_empty() || url.contains('\n') {
        return Err(refuse("this file does not contain one URL on one line".to_owned()));
    }
    Ok(url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_file_is_passed_on_as_an_absolute_one() {
        let cwd = env::current_dir().expect("exists");
        let cwd = cwd.to_str().expect("UTF-8");
        assert_eq!(Store("sqlite:a/b?x=1".into()).anywhere(), format!("sqlite:{cwd}/a/b?x=1"));
        for same in
            ["sqlite:", "sqlite:/a", "sqlite:?x=1", "memory:a", "redis://:pw@h", "rediss://h?ca=/a&key="]
        {
            assert_eq!(Store(same.into()).anywhere(), same);
        }
        assert_eq!(
            Store("rediss://h/0?prefix=key=&ca=ca.pem&cert=/c&key=a/k".into()).anywhere(),
            format!("rediss://h/0?prefix=key=&ca={cwd}/ca.pem&cert=/c&key={cwd}/a/k")
        );
        assert_eq!(
            Store("postgres://h/d?sslrootcert=ca.pem&sslcert=/c&sslkey=k&passfile=p&host=h".into())
                .anywhere(),
            format!(
                "postgres://h/d?sslrootcert={cwd}/ca.pem&sslcert=/c&sslkey={cwd}/k&passfile={cwd}/p&host=h"
            )
        );
        let system = "postgresql://h/d?sslrootcert=system&sslkey=&schema=key";
        assert_eq!(Store(system.into()).anywhere(), system);
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
