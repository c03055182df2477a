//! What goes wrong in a call, and what it means for the caller.

use crate::error::{Error, ErrorKind};

/// Why a call failed.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The connection broke, or the answer is none. Whether the call was executed is unknown.
    Broken,
    /// The server speaks HTTP, and not gRPC.
    NotGrpc,
    /// The server has refused the call, or could not finish it.
    Status { code: u32, text: String },
    /// No connection could be opened. Nothing was sent.
    Unopened(Error),
    /// The claim came too late to be executed. Nothing was sent, or it is undone.
    Late,
    /// The key is overdue, and has to be deleted before it is known what there is. Nothing was sent.
    Overdue,
}

/// The status of a call that the server does not know.
const UNIMPLEMENTED: u32 = 12;
const UNAUTHENTICATED: u32 = 16;

/// What the server says, what it means for the caller, and its text. The first row that fits counts.
const TEXTS: &[(&str, ErrorKind, &str)] = {
    use ErrorKind::{Internal, Invalid, Unavailable, Unsupported};
    &[
        (
            "database space exceeded",
            Unavailable,
            "the server's database is full; compact and defragment it, disarm its alarm, and retry",
        ),
        ("too many requests", Unavailable, "the server has too many requests; retry"),
        ("invalid user ID or password", Invalid, "the server refuses this user or password; check the URL"),
        ("user name is empty", Invalid, "the server asks for a user and a password; name them in the URL"),
        (
            "permission denied",
            Unsupported,
            "the user may not do that; grant a role that may read and write all keys with the prefix of the URL",
        ),
        ("no leader", Unavailable, "the servers have no leader; retry when a majority is up"),
        (
            "request timed out",
            Unavailable,
            "a majority did not confirm in time; retry when enough members are up",
        ),
        ("leader changed", Unavailable, "the servers elect a leader; retry"),
        (
            "not supported for learner",
            Unavailable,
            "the server is a learner, which keeps no locks yet; retry",
        ),
        ("server stopped", Unavailable, "the server shuts down; retry"),
        ("corrupt", Unavailable, "the server reports that its data is corrupt; replace that member"),
        (
            "too many operations",
            Unsupported,
            "the server allows too few operations; raise its `--max-txn-ops`",
        ),
        ("larger than max", Unsupported, "the server refuses long requests; raise its `--max-request-bytes`"),
        (
            "request is too large",
            Unsupported,
            "the server refuses long requests; raise its `--max-request-bytes`",
        ),
        ("lease not found", Unavailable, "the lease ended while the lock was acquired; retry"),
        ("has been compacted", Unavailable, "the server drops its history faster than it is read; retry"),
        ("duplicate key", Internal, "the server refuses a transaction"),
    ]
};

impl Fault {
    /// Returns `true` if a lease that the call names has ended. Then nothing was executed.
    pub(super) fn is_lease_gone(&self) -> bool {
        self.says("requested lease not found")
    }

    /// Returns `true` if a transaction has more operations than the server allows. Then nothing was executed.
    pub(super) fn is_too_many_operations(&self) -> bool {
        self.says("too many operations")
    }

    /// Returns `true` if a request has more bytes than the server allows. Then nothing was executed.
    pub(super) fn is_too_large(&self) -> bool {
        self.says("request is too large") || self.says("received message larger than max")
    }

    /// Returns `true` if the server has no users, so that it refuses a password.
    pub(super) fn is_without_users(&self) -> bool {
        self.says("authentication is not enabled")
    }

    /// Returns `true` if the user has to log in again. Then nothing was executed.
    pub(super) fn is_logged_out(&self) -> bool {
        matches!(self, Self::Status { code: UNAUTHENTICATED, .. })
            || self.says("invalid auth token")
            || self.says("revision of auth store is old")
    }

    /// Returns `true` if this member cannot reach the others, so that another one may.
    pub(super) fn is_cut_off(&self) -> bool {
        self.says("no leader") || self.says("request timed out") || self.says("server stopped")
    }

    /// Returns `true` if the call was not executed and never will be.
    pub(super) fn is_definite(&self) -> bool {
        match self {
            Self::Unopened(_) | Self::Late | Self::Overdue => true,
            Self::Broken | Self::NotGrpc => false,
            Self::Status { .. } => {
                let refusals =
                    ["space exceeded", "too many", "lease not found", "permission denied", "duplicate key"];
                self.is_logged_out()
                    || self.is_too_large()
                    || refusals.into_iter().any(|text| self.says(text))
            }
        }
    }

    /// Returns `true` if the server has no space left.
    pub(super) fn is_full(&self) -> bool {
        self.says("space exceeded")
    }

    /// Returns `true` if the server has dropped the revision that was to be read.
    pub(super) fn is_compacted(&self) -> bool {
        self.says("has been compacted")
    }

    fn says(&self, words: &str) -> bool {
        matches!(self, Self::Status { text, .. } if text.contains(words))
    }

    /// Returns the error for the caller. The server's own words are left out, because they may repeat what was sent.
    pub(super) fn explain(&self, place: &str) -> Error {
        let (kind, text) = match self {
            Self::Unopened(error) => return error.clone(),
            Self::Late => (ErrorKind::Unavailable, "the claim came too late to be executed; retry"),
            Self::Overdue => (ErrorKind::Unavailable, "the lease has just ended; retry"),
            Self::Broken => (ErrorKind::Unavailable, "the connection to the server broke; retry"),
            Self::NotGrpc | Self::Status { code: UNIMPLEMENTED, .. } => {
                (ErrorKind::Unsupported, "the server has no API of etcd 3.4 or later; check the URL")
            }
            Self::Status { code, text: said } => {
                let row = TEXTS.iter().find(|row| said.contains(row.0));
                let (kind, text) = row
                    .map_or((ErrorKind::Unavailable, "the server cannot do it now; retry"), |row| {
                        (row.1, row.2)
                    });
                return Error::new(kind, format!("{text} server=`{place}` code=`{code}`"));
            }
        };
        Error::new(kind, format!("{text} server=`{place}`"))
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Unopened(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> Fault {
        Fault::Status { code: 2, text: format!("etcdserver: {text} S3CRET") }
    }

    #[test]
    fn what_the_server_says_decides_the_kind_and_is_not_repeated() {
        for (text, kind) in [
            ("mvcc: database space exceeded", ErrorKind::Unavailable),
            ("authentication failed, invalid user ID or password", ErrorKind::Invalid),
            ("permission denied", ErrorKind::Unsupported),
            ("no leader", ErrorKind::Unavailable),
            ("words of a later version", ErrorKind::Unavailable),
        ] {
            let error = status(text).explain("h:1");
            assert_eq!(error.kind(), kind, "{text}");
            assert!(error.to_string().contains("server=`h:1`"), "{error}");
            assert!(!format!("{error} {error:?}").contains("S3CRET"), "{error}");
        }
    }

    #[test]
    fn a_refusal_is_definite_and_a_broken_connection_is_not() {
        assert!(
            status("too many requests").is_definite() && status("requested lease not found").is_definite()
        );
        assert!(!Fault::Broken.is_definite() && !status("request timed out").is_definite());
    }
}
