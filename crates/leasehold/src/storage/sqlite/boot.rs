//! The boot of the machine and its clock, in terms that all containers of one kernel share.
//!
//! A container may have its own time namespace, whose clock is ahead of the machine's or behind it. It may also have its
//! own file in the place of the boot id. Records therefore contain the machine's clock, and a boot id counts only if the
//! kernel itself provides it.

use crate::clock::Moment;
use crate::error::Result;

/// The boot id in a record whose boot is not known. Two records with it may be of different boots.
pub(super) const UNKNOWN: &str = "";

/// The running boot of the machine.
#[derive(Clone, Debug)]
pub(super) struct Boot {
    id: String,
    /// How far this process's clock is ahead of the machine's, in nanoseconds.
    ahead: i64,
}

impl Boot {
    /// Returns the boot's id; [`UNKNOWN`] if the kernel's id cannot be read.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Returns `true` if the boot id of a record is this boot's; `None` if one of the two is not known.
    pub(super) fn is(&self, recorded: &str) -> Option<bool> {
        (self.id != UNKNOWN && recorded != UNKNOWN).then_some(self.id == recorded)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Boot {
    /// Reads the boot id and the clock's offset from the kernel.
    ///
    /// # Errors
    ///
    /// `Unsupported` if it cannot be known how far this process's clock is ahead.
    pub(super) fn read() -> Result<Self> {
        Ok(Self { id: linux::id().unwrap_or_default(), ahead: linux::ahead()? })
    }

    /// Returns the time as records contain it: microseconds of the machine's clock.
    pub(super) fn stored_us(&self, now: Moment) -> i64 {
        let nanos = i128::from(now.as_nanos()) - i128::from(self.ahead);
        i64::try_from(nanos / 1000).unwrap_or(i64::MAX)
    }
}

/// On other systems, the clock that processes share is the wall clock, which does not begin anew at a boot.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Boot {
    pub(super) fn read() -> Result<Self> {
        Ok(Self { id: "wall".to_owned(), ahead: 0 })
    }

    pub(super) fn stored_us(&self, _now: Moment) -> i64 {
        i64::try_from(crate::clock::wall_us()).unwrap_or(i64::MAX).saturating_sub(self.ahead)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) mod linux {
    use std::fs::{self, File};
    use std::io::{self, Read};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC};
    use rustix::io::Errno;

    use super::super::fs::mount_of;
    use crate::error::{Error, ErrorKind, Result};

    /// Returns the kernel's boot id; `None` if another file is in its place.
    pub(super) fn id() -> Option<String> {
        let dir = Path::new("/proc/sys/kernel/random");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(CWD, dir.join("boot_id"), flags, Mode::empty()).ok()?;
        let opened_dir = rustix::fs::openat(CWD, dir, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
        // Refuses a file of another file system, and another file of procfs that was mounted here.
        let mount = mount_of(&file).ok()?;
        if !(is_proc(&file) && is_proc(&opened_dir) && mount_of(&opened_dir).ok()? == mount) {
            return None;
        }
        let mut id = String::new();
        File::from(file).take(64).read_to_string(&mut id).ok()?;
        let id = id.trim();
        let is_uuid = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        is_uuid.then(|| id.to_owned())
    }

    /// Returns how far this process's boot clock is ahead of the machine's, in nanoseconds.
    pub(in super::super) fn ahead() -> Result<i64> {
        try_ahead().map_err(|cause| {
            let text = "it cannot be known how far the clock of this process is ahead of the machine's, so its \
                        leases would not end when other processes expect; mount this process's own /proc";
            match crate::system::exhausted(&cause) {
                Some(why) => Error::new(ErrorKind::Internal, format!("the clock cannot be told; {why}")),
                None => Error::new(ErrorKind::Unsupported, text),
            }
            .with_source(cause)
        })
    }

    fn try_ahead() -> io::Result<i64> {
        let thread = thread()?;
        let namespace = |name: &str| fs::metadata(thread.join("ns").join(name)).map(|found| found.ino());
        let ours = match namespace("time") {
            Ok(ours) => ours,
            // A kernel without time namespaces has one clock. The directory of namespaces shows that it is such a one.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return fs::symlink_metadata(thread.join("ns")).map(|_| 0);
            }
            Err(e) => return Err(e),
        };
        // The kernel reports the offsets of the children's namespace only.
        if namespace("time_for_children")? != ours {
            return Err(io::Error::other("the time namespace of this process is not that of its children"));
        }
        let offsets = fs::read_to_string(thread.join("timens_offsets"))?;
        let boottime = offsets.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            // Every released kernel accepts the name; some print the number.
            matches!(words.next(), Some("boottime" | "7")).then_some(())?;
            let seconds: i64 = words.next()?.parse().ok()?;
            let nanos: i64 = words.next()?.parse().ok()?;
            seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
        });
        boottime.ok_or_else(|| io::Error::other("the clock offsets in /proc have an unknown format"))
    }

    /// Returns this thread's directory in `/proc`, after checking that `/proc` is the kernel's.
    ///
    /// The directory of the process would not do: it is its first thread's, which may have ended before the others and
    /// then has no namespaces.
    pub(in super::super) fn thread() -> io::Result<PathBuf> {
        let proc = Path::new("/proc");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, proc, flags, Mode::empty())?;
        if !is_proc(&opened) {
            return Err(io::Error::other("/proc is no procfs"));
        }
        // The link is `PID/task/TID`, in the numbers of the pid namespace that this /proc was mounted in.
        let link = fs::read_link(proc.join("thread-self"))?;
        let thread = link.file_name().ok_or(Errno::NOENT)?;
        Ok(proc.join(thread))
    }

    fn is_proc(file: impl AsFd) -> bool {
        rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type == PROC_SUPER_MAGIC)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_boot_id_is_the_kernels() {
        let boot = Boot::read().expect("read");
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("read");
        assert_eq!(boot.id(), id.trim());
        assert_eq!(boot.is(boot.id()), Some(true));
        assert_eq!(boot.is("another"), Some(false));
        assert_eq!(boot.is(UNKNOWN), None);
    }

    #[test]
    fn records_contain_the_clock_of_the_machine() {
        let boot = |ahead| Boot { id: UNKNOWN.to_owned(), ahead };
        let now = Moment::from_nanos(5_000_000);
        assert_eq!(boot(0).stored_us(now), 5_000);
        assert_eq!(boot(2_000_000).stored_us(now), 3_000);
        assert_eq!(boot(-2_000_000).stored_us(now), 7_000);
        assert_eq!(boot(0).is(UNKNOWN), None);
    }
}
