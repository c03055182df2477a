//! What a Redis says in states that are hard to bring about, as it says it.

/// It reads its data after a start.
pub const LOADING: &str = "LOADING Redis is loading the dataset in memory";
/// A script runs for too long.
pub const BUSY: &str =
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";
/// It is a replica.
pub const READONLY: &str = "READONLY You can't write against a read only replica.";
/// It is a replica, and its primary is away.
pub const MASTERDOWN: &str =
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
/// A Cluster that does not serve every slot.
pub const CLUSTERDOWN: &str = "CLUSTERDOWN The cluster is down";
/// Keys of a slot that is on its way are at two nodes.
pub const TRYAGAIN: &str = "TRYAGAIN Multiple keys request during rehashing of slot";
/// A Cluster's key is elsewhere. Nobody listens there.
pub const MOVED: &str = "MOVED 3999 127.0.0.1:1";
/// A Cluster's key may be elsewhere. Nobody listens there.
pub const ASK: &str = "ASK 3999 127.0.0.1:1";
/// It cannot write to its disk.
pub const MISCONF: &str = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. \
    Commands that may modify the data set are disabled.";
/// Too few replicas follow it.
pub const NOREPLICAS: &str = "NOREPLICAS Not enough good replicas to write.";
/// It asks for a password.
pub const NOAUTH: &str = "NOAUTH Authentication required.";
/// The password is wrong.
pub const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
/// The user may not.
pub const NOPERM: &str = "NOPERM User app has no permissions to run the 'evalsha' command";
/// Its memory is full, and it evicts nothing.
pub const OOM: &str = "OOM command not allowed when used memory > 'maxmemory'.";
/// It has forgotten a script.
pub const NOSCRIPT: &str = "NOSCRIPT No matching script. Please use EVAL.";
/// The key is of another type.
pub const WRONGTYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
/// It has as many clients as it may.
pub const MAXCLIENTS: &str = "ERR max number of clients reached";
/// Something else.
pub const ERR: &str = "ERR something that no version says";

/// All of them.
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
