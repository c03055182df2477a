//! Which process a liveness file belongs to, and whether that process lives: by the file's name alone.
//!
//! A lock on the file can be dropped while its process lives: by code of that process which opens and closes the file. And
//! two copies of this library in one process never conflict in classic locks. The name tells what the lock does not.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::process::Pid;

/// A process, as no other of this boot is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// In its own pid namespace.
    pid: u32,
    /// The pid namespace; 0 where there are none.
    namespace: u64,
    /// When it was started, in ticks of the machine's clock; 0 where that is not told.
    started: u64,
    /// Tells what the process executes from what it executed before: `exec` closes all files and keeps the rest.
    image: u64,
}

impl Process {
    /// Returns the running process.
    ///
    /// Every copy of this library in it gets the same answer.
    pub(super) fn own() -> io::Result<Self> {
        static OWN: Mutex<Option<Process>> = Mutex::new(None);
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        // A forked child inherits what its parent has found out.
        match *own {
            Some(found) if found.pid == std::process::id() => Ok(found),
            _ => Ok(*own.insert(system::own()?)),
        }
    }

    /// Returns the process's id, if it has one in the namespace of the running process.
    pub(super) fn pid(self) -> Option<Pid> {
        let here = Self::own().is_ok_and(|own| own.namespace == self.namespace);
        if here { self.raw_pid() } else { None }
    }

    /// Returns `true` if the process lives, `None` if that cannot be told from here.
    pub(super) fn lives(self) -> Option<bool> {
        let pid = self.pid()?;
        match rustix::process::test_kill_process(pid) {
            Err(Errno::SRCH) => Some(false),
            // What may not be signaled is there.
            Ok(()) | Err(Errno::PERM) => Some(system::is_still(pid, self.started)),
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

    /// In a second, of the times that Linux shows to programs.
    const TICKS: i128 = 100;
    /// By how many ticks two readings of one start may differ: each is rounded in a time namespace of its own.
    const ROUNDED: u64 = 2;

    pub(super) fn own() -> io::Result<Process> {
        let thread = linux::thread()?;
        let namespace = match fs::metadata(thread.join("ns/pid")) {
            Ok(found) => found.ino(),
            // A kernel without them.
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        // Of the process, not of the thread.
        let stat = Stat::read("self")?;
        Ok(Process {
            pid: std::process::id(),
            namespace,
            started: on_machine(stat.started),
            image: stat.stack,
        })
    }

    /// Returns `true` unless it is known that the process has ended and its id went to another.
    pub(super) fn is_still(pid: Pid, started: u64) -> bool {
        // The numbers in /proc are those of the namespace that it was mounted in.
        if !proc_is_ours() {
            return true;
        }
        match Stat::read(&pid.as_raw_nonzero().to_string()) {
            Ok(stat) => !stat.is_zombie && on_machine(stat.started).abs_diff(started) <= ROUNDED,
            // Hidden from other accounts.
            Err(_) => true,
        }
    }

    fn proc_is_ours() -> bool {
        let Ok(status) = fs::read_to_string("/proc/self/status") else { return false };
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        // From the namespace of this /proc down to our own.
        ids.is_some_and(|ids| ids.split_ascii_whitespace().eq([std::process::id().to_string().as_str()]))
    }

    /// Takes out what this process's clock is ahead of the machine's.
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
            Self::parse(&text)
                .ok_or_else(|| io::Error::other("/proc tells of a process what is not understood"))
        }

        /// The fields are numbered from 1 in proc(5); the second is the name, which may be anything.
        fn parse(text: &str) -> Option<Self> {
            let fields: Vec<_> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
            let field = |n: usize| fields.get(n - 3).copied();
            let number = |n| field(n)?.parse::<u64>().ok();
            // The first thread may have ended before the others.
            let is_zombie = matches!(field(3)?, "Z" | "X") && number(20)? <= 1;
            Some(Self { is_zombie, started: number(22)?, stack: number(28)? })
        }
    }

    #[cfg(test)]
    mod tests {
        use rustix::process::{WaitId, WaitIdOptions, waitid};

        use super::*;

        #[test]
        fn a_zombie_has_ended() {
            let mut child = std::process::Command::new("cat")
                .stdin(std::process::Stdio::piped())
                .spawn()
                .expect("started");
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
            let started = on_machine(Stat::read(&child.id().to_string()).expect("read").started);
            assert!(is_still(pid, started));
            drop(child.stdin.take());
            // Leaves it unburied.
            waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).expect("ended");
            assert!(!is_still(pid, started));
            child.wait().expect("ended");
        }

        #[test]
        fn the_name_of_a_program_hides_no_field() {
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

    /// Whether its id went to another is not told here.
    pub(super) fn is_still(_pid: Pid, _started: u64) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_name() {
        let own = Process::own().expect("found");
        assert_eq!(own.to_string().parse(), Ok(own));
        assert_eq!(own.lives(), Some(true));
        for text in ["", "1-2-3", "1-2-3-4-5", "1-2-3-g", "-1-2-3", "100000000-0-0-0"] {
            assert_eq!(text.parse::<Process>(), Err(()), "{text}");
        }
    }

    #[test]
    fn one_that_has_ended_is_known_to_have() {
        let mut child = std::process::Command::new("true").spawn().expect("started");
        let ended = Process { pid: child.id(), ..Process::own().expect("found") };
        child.wait().expect("ended");
        assert_eq!(ended.lives(), Some(false));
        // In another namespace the same number is another process.
        assert_eq!(Process { namespace: 1, ..ended }.lives(), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_id_that_went_to_another_process_is_not_the_former_one() {
        let own = Process::own().expect("found");
        assert_eq!(Process { started: own.started - 1000, ..own }.lives(), Some(false));
    }
}
