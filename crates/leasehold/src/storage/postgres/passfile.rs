//! The password file, as libpq reads it: `host:port:database:user:password` in each line.

use std::path::{Path, PathBuf};
use std::sync::Once;

use super::hosts::{DIRECTORIES, Host, Place};
use crate::error::{Error, Result};

/// The login that a password is wanted for.
pub(super) struct Wanted<'a> {
    pub(super) host: &'a Host,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// Looks a password up in the file that the URL names, or else in `~/.pgpass`. A file that others can read is an error if
/// the URL names it. Otherwise it is skipped, with one line in the log.
pub(super) fn find(named: Option<&Path>, wanted: &Wanted<'_>) -> Result<Option<String>> {
    let path = match named {
        Some(named) => named.to_owned(),
        None => match default() {
            Some(default) => default,
            None => return Ok(None),
        },
    };
    let shown = path.display();
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if named.is_some() => {
            return Err(Error::invalid(format!("{error} option=`passfile` path=`{shown}`")));
        }
        Err(error) => {
            static WARNED: Once = Once::new();
            WARNED.call_once(
                || tracing::warn!(target: "leasehold", %error, path = %shown, "password file not read"),
            );
            return Ok(None);
        }
    };
    Ok(text.lines().find_map(|line| wanted.password_in(line)))
}

fn default() -> Option<PathBuf> {
    Some(std::env::home_dir()?.join(".pgpass")).filter(|path| path.exists())
}

fn read(path: &Path) -> std::result::Result<String, String> {
    let unreadable = |e: std::io::Error| format!("the password file cannot be read; check it error=`{e}`");
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("the password file is no file; name another one".into());
    }
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::mode(&metadata) & 0o077 != 0 {
        return Err("others can read the password file; run `chmod 600` on it".into());
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

impl Wanted<'_> {
    /// Returns the password of a line that fits.
    fn password_in(&self, line: &str) -> Option<String> {
        if line.starts_with('#') {
            return None;
        }
        let (fields, password) = fields(line)?;
        let port = self.host.port.to_string();
        let wanted = [self.host(), port, self.database.to_owned(), self.user.to_owned()];
        let fits = |(field, wanted): (&Field, &String)| field.any || field.text == *wanted;
        let password = Some(password).filter(|password| !password.is_empty());
        if fields.iter().zip(&wanted).all(fits) { password } else { None }
    }

    fn host(&self) -> String {
        match &self.host.place {
            Place::Tcp { name, .. } => name.clone(),
            Place::Unix(path) if DIRECTORIES.iter().any(|default| path == Path::new(default)) => {
                "localhost".into()
            }
            Place::Unix(path) => path.to_string_lossy().into_owned(),
            Place::Default => "localhost".into(),
        }
    }
}

struct Field {
    text: String,
    any: bool,
}

/// Splits a line at `:`; a `\` escapes the character after it. The fifth field is the rest.
fn fields(line: &str) -> Option<([Field; 4], String)> {
    let mut chars = line.chars();
    let mut fields = Vec::with_capacity(4);
    while fields.len() < 4 {
        let (mut text, mut raw) = (String::new(), String::new());
        loop {
            let c = chars.next()?;
            raw.push(c);
            match c {
                ':' => break,
                '\\' => {
                    let escaped = chars.next()?;
                    raw.push(escaped);
                    text.push(escaped);
                }
                _ => text.push(c),
            }
        }
        fields.push(Field { any: raw == "*:", text });
    }
    let mut password = String::new();
    while let Some(c) = chars.next() {
        password.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    Some((fields.try_into().ok()?, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
        let place = match host {
            "" => Place::Default,
            path if path.starts_with('/') => Place::Unix(path.into()),
            name => Place::Tcp { name: name.into(), address: None },
        };
        let host = Host { place, port };
        let wanted = Wanted { host: &host, database, user };
        file.lines().find_map(|line| wanted.password_in(line))
    }

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let file = "\
# db1:5432:shop:app:comment\n\
\n\
db1:5432:shop:app\n\
db1:5432:shop:app:one\n\
db1:*:*:app:two\n\
localhost:5432:*:app:socket\n\
/run/pg:5432:*:app:other\n\
\\*:5432:*:app:star\n\
::1:5432:*:app:six\n\
\\:\\:1:5432:*:app:s\\:i\\\\x\n\
*:*:*:app:a:b\n\
*:*:*:stranger:\n";
        let cases = [
            (("db1", 5432, "shop", "app"), Some("one")),
            (("db1", 5433, "shop", "app"), Some("two")),
            (("db2", 5433, "shop", "app"), Some("a:b")),
            (("", 5432, "shop", "app"), Some("socket")),
            (("/var/run/postgresql", 5432, "shop", "app"), Some("socket")),
            (("/run/pg", 5432, "shop", "app"), Some("other")),
            (("*", 5432, "shop", "app"), Some("star")),
            (("::1", 5432, "shop", "app"), Some("s:i\\x")),
            (("db1", 5432, "shop", "stranger"), None),
            (("db1", 5432, "shop", "else"), None),
        ];
        for ((host, port, database, user), expected) in cases {
            assert_eq!(found(file, host, port, database, user).as_deref(), expected, "{host}:{port} {user}");
        }
    }
}
