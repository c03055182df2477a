//! Finds the programs of the servers, or tells how to install them.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Result};

/// Finds a program in PATH and in Debian's directories of servers.
///
/// # Errors
///
/// If the program is missing; the text is the command that installs it.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    find(name, std::env::var_os("PATH").unwrap_or_default())
}

fn find(name: &str, path: OsString) -> Result<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // An empty PATH hides Debian's directories, too, so that a test can make a server unavailable.
    if !path.is_empty() {
        places.extend(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
        places.extend(debian_postgres());
        let cached = |name| cache().map(|cache| cache.join(name));
        places.extend(["mongod-6.0.5", "valkey-8.0.1"].into_iter().filter_map(cached));
    }
    let mut found = places.into_iter().map(|place| place.join(name));
    found.find(|path| is_executable(path)).ok_or_else(|| {
        Error::new(format!("`{name}` is not installed; as root on Debian, install it with: scripts/setup"))
    })
}

/// Returns Debian's directories of PostgreSQL, which are not in PATH, with the newest version first.
fn debian_postgres() -> Vec<PathBuf> {
    let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") else { return Vec::new() };
    let mut versions: Vec<_> = versions.flatten().map(|version| version.path()).collect();
    versions.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        std::cmp::Reverse(name.parse::<u32>().unwrap_or(0))
    });
    versions.into_iter().map(|version| version.join("bin")).collect()
}

/// Finds the npm packages that the tests compare with.
///
/// # Errors
///
/// If they are missing or have other versions; the text is the command that installs them.
pub(crate) fn node_modules() -> Result<PathBuf> {
    let directory = installed("interop-node", "package-lock.json", NODE)?;
    Ok(directory.join("node_modules"))
}

/// Finds a Python with the PyPI packages that the tests compare with.
///
/// # Errors
///
/// If they are missing or have other versions; the text is the command that installs them.
pub(crate) fn python() -> Result<PathBuf> {
    let directory = installed("interop-python", "requirements.txt", PYTHON)?;
    Ok(directory.join("bin/python"))
}

const NODE: &str = include_str!("../interop/package-lock.json");
const PYTHON: &str = include_str!("../interop/requirements.txt");

/// Returns the directory that was installed from `list`, if its copy of the list is current.
fn installed(name: &str, file: &str, list: &str) -> Result<PathBuf> {
    let directory = cache().map(|cache| cache.join(name)).unwrap_or_default();
    match std::fs::read_to_string(directory.join(file)) {
        Ok(there) if there == list => Ok(directory),
        _ => Err(Error::new(format!(
            "the packages of {file} are not installed; install them with: scripts/setup"
        ))),
    }
}

/// Returns the directory in which `scripts/setup` puts programs without a package.
fn cache() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    cache.map(|cache| cache.join("leasehold"))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// The user that runs a server.
#[derive(Clone, Debug)]
pub(crate) enum User {
    /// The user of the test.
    Own,
    /// Another user, which only root can choose.
    Other { uid: u32, gid: u32 },
}

impl User {
    /// Returns a user other than root, which PostgreSQL and PgBouncer require: the system's `postgres` or
    /// `nobody` if the test runs as root.
    pub(crate) fn not_root() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = ["postgres", "nobody"].iter().find_map(|name| {
            let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut ids = line.split(':').skip(2).map_while(|id| id.parse().ok());
            Some(Self::Other { uid: ids.next()?, gid: ids.next()? })
        });
        user.ok_or_else(|| {
            Error::new("there is no user `postgres`, and root may not run it; install with: scripts/setup")
        })
    }

    /// Makes a command that runs as this user. The process becomes the program, so its id is the server's.
    pub(crate) fn command(&self, program: &Path) -> Result<Command> {
        match self {
            Self::Own => Ok(Command::new(program)),
            Self::Other { uid, gid } => {
                let mut command = Command::new(self::program("setpriv")?);
                command
                    .args([format!("--reuid={uid}"), format!("--regid={gid}")])
                    .args(["--clear-groups", "--"])
                    .arg(program)
                    // The home of the test's user is not readable for this one.
                    .env("HOME", "/nonexistent");
                Ok(command)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_command_that_installs_it() {
        for name in ["redis-server", "valkey-server", "initdb", "mongod", "etcd", "pgbouncer"] {
            let error = find(name, OsString::new()).expect_err("PATH is empty").to_string();
            assert!(error.contains(name) && error.ends_with("scripts/setup"), "{error}");
        }
        let error = installed("interop-cobol", "list.txt", "a list").expect_err("there is none").to_string();
        assert!(error.contains("list.txt") && error.ends_with("scripts/setup"), "{error}");
    }
}
