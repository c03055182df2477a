//! Finds out why a command cannot be executed. The number of the error is not enough: one number has many causes, and most
//! of them are not in the file that was named.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfsMountFlags};
use rustix::io::Errno;

use crate::exit::Exit;
use crate::output::safe;

/// How much of a file the kernel looks at to find out how to execute it.
const HEAD: u64 = 256;

/// Returns the exit code of a shell, and the cause.
pub(crate) fn explain(program: &OsStr, error: &io::Error) -> (Exit, String) {
    let (exit, cause) = cause(program, error);
    (exit, format!("{cause} command=`{}` error=`{error}`", safe(&program.to_string_lossy())))
}

fn cause(program: &OsStr, error: &io::Error) -> (Exit, String) {
    let Some(path) = find(program) else {
        return (Exit::NotFound, "the command was not found; check its name and PATH".to_owned());
    };
    let not_executable = |text: &str| (Exit::NotExecutable, text.to_owned());
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => missing(&path),
        Some(Errno::ACCESS) => forbidden(&path),
        Some(Errno::NOTDIR) => {
            (Exit::NotFound, "the command was not found: a part of its path is no directory".to_owned())
        }
        Some(Errno::LOOP) => {
            not_executable("the command cannot be executed: its path has too many symbolic links")
        }
        Some(Errno::NAMETOOLONG) => not_executable("the command cannot be executed: its path is too long"),
        Some(Errno::TXTBSY) => not_executable(
            "the command cannot be executed while another process writes to its file; retry then",
        ),
        Some(Errno::TOOBIG) => not_executable(
            "the command cannot be executed: its arguments and its environment are too long together",
        ),
        Some(Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE) => not_executable(
            "the command cannot be executed: the system has no memory, processes or files left",
        ),
        Some(Errno::NOEXEC | Errno::INVAL) => not_executable(
            "the command cannot be executed: its file is no program for this machine, and no script",
        ),
        Some(Errno::PERM) => not_executable("the command cannot be executed: the system does not permit it"),
        _ => not_executable("the command cannot be executed"),
    }
}

/// Explains "no such file or directory", which may be about the file or about what the file needs.
fn missing(path: &Path) -> (Exit, String) {
    if !path.is_absolute() && std::env::current_dir().is_err() {
        let text = "the command was not found: the working directory is not there any more";
        return (Exit::NotFound, text.to_owned());
    }
    if path.exists() {
        let what = match interpreter(path) {
            Some(interpreter) if interpreter.as_bytes().ends_with(b"\r") => {
                "its first line ends in a carriage return, which is taken for a part of its interpreter's name"
                    .to_owned()
            }
            Some(interpreter) => format!(
                "its interpreter was not found; install it, or correct the first line of the script interpreter=`{}`",
                safe(&interpreter.to_string_lossy())
            ),
            None => "the loader that it asks for was not found; it was built for another system".to_owned(),
        };
        return (Exit::NotExecutable, format!("the command cannot be executed: {what}"));
    }
    let what = if path.is_symlink() { "it is a symbolic link to nothing" } else { "there is no such file" };
    (Exit::NotFound, format!("the command was not found: {what}"))
}

/// Explains "permission denied", which may be about the file, its interpreter, or a directory on the way to it.
fn forbidden(path: &Path) -> (Exit, String) {
    let what = match path.metadata() {
        Err(_) => "a directory on the way to it may not be searched".to_owned(),
        Ok(file) if file.is_dir() => "it is a directory".to_owned(),
        Ok(file) if !file.is_file() => "it is no regular file".to_owned(),
        Ok(_) if is_noexec(path) => {
            "its file system is mounted without the right to execute (noexec)".to_owned()
        }
        Ok(_) if rustix::fs::access(path, Access::EXEC_OK).is_err() => {
            "it is not executable for you; run `chmod +x` on it".to_owned()
        }
        Ok(_) => match interpreter(path) {
            Some(interpreter) => format!(
                "its interpreter is not executable interpreter=`{}`",
                safe(&interpreter.to_string_lossy())
            ),
            None => "the system does not permit it".to_owned(),
        },
    };
    (Exit::NotExecutable, format!("the command cannot be executed: {what}"))
}

/// Returns the file that a command means, if it exists. A name without a slash is looked up in PATH.
fn find(program: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    let found: Vec<_> = std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .filter(|file| !program.is_empty() && file.symlink_metadata().is_ok())
        .collect();
    // `exec` tries one after the other up to the first that is executable.
    let usable = found.iter().find(|file| rustix::fs::access(file.as_path(), Access::EXEC_OK).is_ok());
    usable.or(found.first()).cloned()
}

fn interpreter(path: &Path) -> Option<OsString> {
    let head = head(path)?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let start = line.iter().position(|byte| !b" \t".contains(byte))?;
    let word = line[start..].split(|byte| b" \t".contains(byte)).next()?;
    Some(OsString::from_vec(word.to_owned()))
}

fn head(path: &Path) -> Option<Vec<u8>> {
    // Opening a FIFO would wait for its writer.
    path.metadata().ok().filter(Metadata::is_file)?;
    let mut head = Vec::new();
    File::open(path).ok()?.take(HEAD).read_to_end(&mut head).ok()?;
    Some(head)
}

fn is_noexec(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// A program that is built for another machine.
pub(crate) struct Foreign {
    pub(crate) path: PathBuf,
    machine: u16,
}

/// Returns the program if it is built for another machine.
///
/// If the kernel refuses such a program, the C library gives it to a shell, which takes it for a script. Only an attempt
/// shows whether the kernel refuses it: it may know how to emulate that machine.
pub(crate) fn foreign(program: &OsStr) -> Option<Foreign> {
    let path = find(program)?;
    let machine = machine(&head(&path)?)?;
    (!NATIVE.is_empty() && !NATIVE.contains(&machine)).then_some(Foreign { path, machine })
}

impl Foreign {
    /// Says why the kernel has refused it.
    pub(crate) fn explain(&self) -> String {
        format!(
            "the command cannot be executed: it is a program for another kind of machine command=`{}` machine=`{}`",
            safe(&self.path.to_string_lossy()),
            self.machine
        )
    }
}

/// Returns the machine that a program is built for, as ELF numbers it.
fn machine(head: &[u8]) -> Option<u16> {
    let [0x7f, b'E', b'L', b'F', _, order, ..] = *head else { return None };
    let machine = head.get(18..20)?.try_into().ok()?;
    Some(if order == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) })
}

/// The kinds of machines that this one runs programs for. Empty where that is not known.
const NATIVE: &[u16] = if cfg!(target_arch = "x86_64") {
    &[62, 3]
} else if cfg!(target_arch = "aarch64") {
    &[183, 40]
} else {
    &[]
};
