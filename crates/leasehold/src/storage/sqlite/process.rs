//! The process that a liveness file belongs to, and whether it is alive: both follow from the file's name alone.
//!
//! The lock on the file is not enough. Any code of the process drops it by opening and closing the file, and the classic
//! locks of two copies of this library in one process never conflict.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::process::Pid;

/// The identity of a process, which no other process of this boot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// The process id in its own pid namespace.
    pid: u32,
    /// The pid namespace; 0 if the kernel has none.
    namespace: u64,
    /// The start of the process, in ticks of the machine's clock; 0 if it is not known.
    started: u64,
    /// A number that `exec` changes: it closes all files, but keeps the pid and the start.
    ///
    /// It is the address of the stack.
    image: u64,
}

impl Process {
    /// Returns the running process: the same value in every copy of this library.
    pub(super) fn own() -> io::Result<Self> {
        static OWN: Mutex<Option<Process>> = Mutex::new(None);
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        // A forked child inherits its parent's value.
        match *own {
            Some(found) if found.pid == std::process::id() => Ok(found),
            _ => Ok(*own.insert(system::own()?)),
        }
    }

    /// Returns the process id; `None` if the process is in another pid namespace.
    pub(super) fn pid(self) -> Option<Pid> {
        let here = Self::own().is_ok_and(|own| own.namespace == self.namespace);
        if here { self.raw_pid() } else { None }
    }

    /// Returns `true` if the process is alive; `None` if that cannot be told from here.
    pub(super) fn is_alive(self) -> Option<bool> {
        let pid = self.pid()?;
        match rustix::process::test_kill_process(pid) {
            Err(Errno::SRCH) => Some(false),
            // A process that may not be signaled exists.
            Ok(()) | Err(Errno::PERM) => Some(system::has_start(pid, self.started)),
            Err(_) => None,
        }
    }

    fn raw_pid(self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}-{:x}", self.pid, self.namespace, self.started, self.image)
    }
}

impl FromStr for Process {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = text.split('-').map(|number| u64::from_str_radix(number, 16).map_err(drop));
        let mut next = || numbers.next().ok_or(())?;
        let pid = u32::try_from(next()?).map_err(drop)?;
        let process = Self { pid, namespace: next()?, started: next()?, image: next()? };
        numbers.next().is_none().then_some(process).ok_or(())
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use std::fs;
    use std::io;
    use std::os::unix::fs::MetadataExt;

    use rustix::process::Pid;

    use super::super::boot::linux;
    use super::Process;

    /// The ticks per second of the times that Linux shows to programs.
    const TICKS: i128 = 100;
    /// The ticks by which two readings of one start may differ: each is rounded in its own time namespace.
    const ROUNDING: u64 = 2;

    pub(super) fn own() -> io::Result<Process> {
        let thread = linux::thread()?;
        let namespace = match fs::metadata(thread.join("ns/pid")) {
            Ok(found) => found.ino(),
            // A kernel without pid namespaces.
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        // The statistics of the process, not of the thread.
        let stat = Stat::read("self")?;
        Ok(Process {
            pid: std::process::id(),
            namespace,
            started: on_machine(stat.started),
            image: stat.stack,
        })
    }

    /// Returns `false` if the process with that start is known to have ended and its id to be another's.
    pub(super) fn has_start(pid: Pid, started: u64) -> bool {
        // The process ids in /proc are those of the pid namespace that it was mounted in.
        if !proc_is_ours() {
            return true;
        }
        match Stat::read(&pid.as_raw_nonzero().to_string()) {
            Ok(stat) => !stat.is_zombie && on_machine(stat.started).abs_diff(started) <= ROUNDING,
            // The process is hidden from other accounts.
            Err(_) => true,
        }
    }

    fn proc_is_ours() -> bool {
        let Ok(status) = fs::read_to_string("/proc/self/status") else { return false };
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        // The list goes from the namespace of this /proc down to our own.
        ids.is_some_and(|ids| ids.split_ascii_whitespace().eq([std::process::id().to_string().as_str()]))
    }

    /// Returns a time of this process's clock as the machine's clock shows it.
    fn on_machine(ticks: u64) -> u64 {
        let ahead = i128::from(linux::ahead().unwrap_or(0));
        let ahead = ahead * TICKS / 1_000_000_000;
        u64::try_from(i128::from(ticks) - ahead).unwrap_or(0)
    }

    struct Stat {
        is_zombie: bool,
        started: u64,
        stack: u64,
    }

    impl Stat {
        fn read(process: &str) -> io::Result<Self> {
            let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
            Self::parse(&text).ok_or_else(|| {
                io::Error::other("the statistics of a process in /proc have an unknown format")
            })
        }

        /// Parses the fields, which proc(5) numbers from 1. The second is the program's name, which may be any text.
        fn parse(text: &str) -> Option<Self> {
            let fields: Vec<_> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
            let field = |n: usize| fields.get(n - 3).copied();
            let number = |n| field(n)?.parse::<u64>().ok();
            // If threads are left, only the first one has ended.
            let is_zombie = matches!(field(3)?, "Z" | "X") && number(20)? <= 1;
            Some(Self { is_zombie, started: number(22)?, stack: number(28)? })
        }
    }

    #[cfg(test)]
    mod tests {
        use rustix::process::{WaitId, WaitIdOptions, waitid};

        use super::*;

        #[test]
        fn a_zombie_counts_as_ended() {
            let mut child = std::process::Command::new("cat")
                .stdin(std::process::Stdio::piped())
                .spawn()
                .expect("started");
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
            let started = on_machine(Stat::read(&child.id().to_string()).expect("read").started);
            assert!(has_start(pid, started));
            drop(child.stdin.take());
            // Leaves the zombie: the child has ended and is not reaped yet.
            waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).expect("ended");
            assert!(!has_start(pid, started));
            child.wait().expect("ended");
        }

        #[test]
        fn no_name_of_a_program_confuses_the_fields() {
            let fields: Vec<_> = (4..=52).map(|n| n.to_string()).collect();
            let stat = |name: &str, state: &str| {
                Stat::parse(&format!("7 ({name}) {state} {}\n", fields.join(" "))).expect("read")
            };
            for name in ["cat", "a) Z 1", "(", "a b"] {
                let stat = stat(name, "S");
                assert_eq!((stat.is_zombie, stat.started, stat.stack), (false, 22, 28), "{name}");
            }
            // Twenty threads are left.
            assert!(!stat("cat", "Z").is_zombie);
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use std::io;

    use rustix::process::Pid;

    use super::Process;

    pub(super) fn own() -> io::Result<Process> {
        Ok(Process { pid: std::process::id(), namespace: 0, started: 0, image: 0 })
    }

    /// Returns `true`: other systems do not report the start of a process.
    pub(super) fn has_start(_pid: Pid, _started: u64) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_back_from_its_text() {
        let own = Process::own().expect("found");
        assert_eq!(own.to_string().parse(), Ok(own));
        assert_eq!(own.is_alive(), Some(true));
        for text in ["", "1-2-3", "1-2-3-4-5", "1-2-3-g", "-1-2-3", "100000000-0-0-0"] {
            assert_eq!(text.parse::<Process>(), Err(()), "{text}");
        }
    }

    #[test]
    fn an_ended_process_is_known_to_have_ended() {
        let mut child = std::process::Command::new("true").spawn().expect("started");
        let ended = Process { pid: child.id(), ..Process::own().expect("found") };
        child.wait().expect("ended");
        assert_eq!(ended.is_alive(), Some(false));
        // In another namespace the same number is another process.
        assert_eq!(Process { namespace: 1, ..ended }.is_alive(), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_reused_process_id_is_another_process() {
        let own = Process::own().expect("found");
        assert_eq!(Process { started: own.started - 1000, ..own }.is_alive(), Some(false));
    }
}
