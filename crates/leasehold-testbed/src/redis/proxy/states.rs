//! The errors of a Redis in states that are hard to reach, in its own words.

/// The server loads its data.
pub const LOADING: &str = "LOADING Redis is loading the dataset in memory";
/// A script has run for too long.
pub const BUSY: &str =
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";
/// The server is a replica.
pub const READONLY: &str = "READONLY You can't write against a read only replica.";
/// The server is a replica, and its primary is down.
pub const MASTERDOWN: &str =
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
/// The Cluster does not serve every slot.
pub const CLUSTERDOWN: &str = "CLUSTERDOWN The cluster is down";
/// The slot is being moved, and the keys are at two nodes.
pub const TRYAGAIN: &str = "TRYAGAIN Multiple keys request during rehashing of slot";
/// The slot is at another node, at which nothing listens.
pub const MOVED: &str = "MOVED 3999 127.0.0.1:1";
/// The slot is being moved to another node, at which nothing listens.
pub const ASK: &str = "ASK 3999 127.0.0.1:1";
/// The server cannot write to its disk.
pub const MISCONF: &str = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. \
    Commands that may modify the data set are disabled.";
/// Too few replicas follow the server.
pub const NOREPLICAS: &str = "NOREPLICAS Not enough good replicas to write.";
/// The server requires a password.
pub const NOAUTH: &str = "NOAUTH Authentication required.";
/// The password is wrong.
pub const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
/// An ACL forbids the command.
pub const NOPERM: &str = "NOPERM User app has no permissions to run the 'evalsha' command";
/// The memory is full, and nothing is evicted.
pub const OOM: &str = "OOM command not allowed when used memory > 'maxmemory'.";
/// The server has forgotten the script.
pub const NOSCRIPT: &str = "NOSCRIPT No matching script. Please use EVAL.";
/// The key is of another type.
pub const WRONGTYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
/// The server has reached its limit of clients.
pub const MAXCLIENTS: &str = "ERR max number of clients reached";
/// Another error.
pub const ERR: &str = "ERR something that no version says";

/// All errors.
pub const ALL: &[&str] = &[
    LOADING,
    BUSY,
    READONLY,
    MASTERDOWN,
    CLUSTERDOWN,
    TRYAGAIN,
    MOVED,
    ASK,
    MISCONF,
    NOREPLICAS,
    NOAUTH,
    WRONGPASS,
    NOPERM,
    OOM,
    NOSCRIPT,
    WRONGTYPE,
    MAXCLIENTS,
    ERR,
];
