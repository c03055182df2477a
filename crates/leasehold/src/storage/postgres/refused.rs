//! What libpq can do and we cannot: an error that says so, unless the value asks for nothing.

use crate::error::{Error, ErrorKind, Result};
use crate::storage::url::Url;

/// Options, the values that ask for nothing, and what to do instead.
const REFUSED: &[(&[&str], &[&str], &str)] = &[
    (&["service", "servicefile"], &[], "no service file is read; write what it says into the URL"),
    (&["gssencmode"], &["disable", "prefer"], "Kerberos and GSSAPI are not spoken; encrypt with `sslmode`"),
    (
        &["gssdelegation"],
        &["0"],
        "Kerberos and GSSAPI are not spoken; log in with a password or a certificate",
    ),
    (
        &["krbsrvname", "gsslib"],
        &[""],
        "Kerberos and GSSAPI are not spoken; log in with a password or a certificate",
    ),
    (
        &["sslcompression"],
        &["0"],
        "TLS is not compressed, which would make it less safe; leave the option away",
    ),
    (
        &["sslpassword"],
        &[""],
        "a key with a password is not read; decrypt the file, and let nobody else read it",
    ),
    (
        &["sslcrl", "sslcrldir"],
        &[""],
        "lists of revoked certificates are not read; trust another authority with `sslrootcert`",
    ),
    (&["sslkeylogfile"], &[""], "the keys of a connection are written nowhere; leave the option away"),
    (
        &["requirepeer"],
        &[""],
        "the owner of a socket is not asked for; use a directory that nobody else writes to",
    ),
    (
        &["require_auth"],
        &[""],
        "the method of the login is not chosen; `channel_binding=require` and `sslmode=verify-full` are the safe ones",
    ),
    (
        &["scram_client_key", "scram_server_key"],
        &[""],
        "keys of SCRAM are not taken; give the password, or the option `passfile`",
    ),
    (
        &["oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope", "oauth_ca_file"],
        &[""],
        "OAuth is not spoken; log in with a password or a certificate",
    ),
    (&["ssl"], &[], "no option of libpq's either; write `sslmode=require`, or better `sslmode=verify-full`"),
];

/// Takes them out of the URL.
///
/// # Errors
///
/// `Unsupported`, if one asks for something. Shows no value: some are secrets.
pub(super) fn take(url: &mut Url) -> Result<()> {
    for (names, harmless, instead) in REFUSED {
        for name in *names {
            let Some(value) = url.take(name) else { continue };
            if !harmless.contains(&value.as_str()) {
                return Err(Error::new(ErrorKind::Unsupported, format!("{instead} option=`{name}`")));
            }
        }
    }
    Ok(())
}
