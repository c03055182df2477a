//! Options of libpq that Leasehold does not support: an error, unless the value has no effect.

use crate::error::{Error, ErrorKind, Result};
use crate::storage::url::Url;

/// The options, the values without effect, and what to do instead.
const UNSUPPORTED: &[(&[&str], &[&str], &str)] = &[
    (&["service", "servicefile"], &[], "service files are not read; write the contents into the URL"),
    (
        &["gssencmode"],
        &["disable", "prefer"],
        "Kerberos and GSSAPI are not supported; encrypt with `sslmode`",
    ),
    (
        &["gssdelegation"],
        &["0"],
        "Kerberos and GSSAPI are not supported; log in with a password or a certificate",
    ),
    (
        &["krbsrvname", "gsslib"],
        &[""],
        "Kerberos and GSSAPI are not supported; log in with a password or a certificate",
    ),
    (&["sslcompression"], &["0"], "TLS is not compressed, which would make it less safe; remove the option"),
    (
        &["sslpassword"],
        &[""],
        "a key with a password is not supported; decrypt the file, and do not let others read it",
    ),
    (
        &["sslcrl", "sslcrldir"],
        &[""],
        "lists of revoked certificates are not supported; trust another authority with `sslrootcert`",
    ),
    (&["sslkeylogfile"], &[""], "the keys of a connection are not logged; remove the option"),
    (
        &["requirepeer"],
        &[""],
        "the owner of a socket is not checked; use a directory that others cannot write to",
    ),
    (
        &["require_auth"],
        &[""],
        "the method of the login cannot be chosen; `channel_binding=require` and `sslmode=verify-full` are safe",
    ),
    (
        &["scram_client_key", "scram_server_key"],
        &[""],
        "keys of SCRAM are not supported; give the password, or the option `passfile`",
    ),
    (
        &["oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope", "oauth_ca_file"],
        &[""],
        "OAuth is not supported; log in with a password or a certificate",
    ),
    (
        &["ssl"],
        &[],
        "libpq has no such option either; write `sslmode=require`, or better `sslmode=verify-full`",
    ),
];

/// Takes these options out of the URL.
///
/// # Errors
///
/// `Unsupported`, if one has an effect. The text shows no value, since some are secrets.
pub(super) fn take(url: &mut Url) -> Result<()> {
    for (names, without_effect, instead) in UNSUPPORTED {
        for name in *names {
            let Some(value) = url.take(name) else { continue };
            if !without_effect.contains(&value.as_str()) {
                return Err(Error::new(ErrorKind::Unsupported, format!("{instead} option=`{name}`")));
            }
        }
    }
    Ok(())
}
